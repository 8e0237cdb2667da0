// Package test runs the built program from outside, as an operator and the systems
// around it would.
package test
