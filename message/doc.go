// Package message is the vocabulary that every part of linkspan shares: what a
// message is, how a batch travels, and how responsibility for it moves.
//
// Responsibility moves by one rule. A [Handler] that returns nil has taken over
// the batch, and the caller may acknowledge it upstream; a Handler that returns
// an error has not, and the caller must keep it, redeliver it or refuse it. There
// are no acknowledgement ids, channels or callbacks.
//
// The package imports the standard library only.
package message
