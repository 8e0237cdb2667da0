// Package pairs sends messages through every ordered pair of protocols, over real
// brokers. Its tests have the build tag brokers.
package pairs
