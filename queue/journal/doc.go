// Package journal is the durable queue engine: one journal on disk for all topics.
//
// It guarantees that what Publish and Atomic returned nil for survives the death of
// the process and of power; that bytes which do not verify are never handed out, and
// that their loss is reported by topic and offset; that the units of Publish and
// Atomic hold as a whole or not at all; and that nothing is promised any more once
// storage has failed.
//
// A single goroutine, the committer, writes. Calls encode their records without a
// lock and append them to the open batch; the committer takes the batch, writes it as
// one frame, syncs once, makes it visible and wakes everybody who waits. While it
// syncs, the next batch fills, so the number of messages a sync carries follows the
// load, and no timer is needed. A second goroutine, the keeper, writes checkpoints and
// prepares segments, so that the committer waits for neither. A third, the destager,
// copies what is still needed of old segments to immutable segments of the topics, so
// that a topic that nobody reads does not hold the journal.
//
//	Publish ─┐                                     ┌─▶ index, cache ─▶ receivers
//	Publish ─┼─▶ open batch ─▶ committer ─ pwrite ─┤
//	Ack ─────┘                      │   fdatasync  └─▶ Publish returns
//	                                ▼
//	       segments ◀─ keeper ◀─ snapshot ─▶ checkpoint
//	           │
//	           └─▶ destager ─▶ topic segments ─▶ receivers
//
// Memory follows the size of the journal only through the index: an entry for each
// topic and block of 64 KiB. Messages are read from a small cache of recent blocks or
// from the disk. What consumers have settled is a bitmap for each subscription.
//
// With [Options.Master], what is new is encrypted under keys that are derived for each
// segment from data keys in the keyring; see [Engine.RotateKeys] and [Engine.Shred].
//
// The files and their bytes are described in docs/format/journal.md.
package journal
