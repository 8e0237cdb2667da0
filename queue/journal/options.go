package journal

import (
	"log/slog"
	"time"

	"github.com/linkspan/linkspan/internal/vfs"
)

// Options configure an engine. The zero value is a good choice.
type Options struct {
	// FS is the filesystem. Default vfs.OS().
	FS vfs.FS
	// SegmentSize is the size of the first journal segment; later ones double up to
	// MaxSegmentSize. Default 4 MiB.
	SegmentSize int64
	// MaxSegmentSize is where the doubling stops. Default 64 MiB, at most 128 MiB.
	MaxSegmentSize int64
	// Reserve is the free space of the filesystem below which publishing is refused
	// while consumers go on. Default min(512 MiB, 5 % of the filesystem).
	Reserve uint64
	// CheckpointBytes is how much journal is written between two checkpoints, which
	// bounds what a start has to replay. Default 64 MiB.
	CheckpointBytes int64
	// CheckpointInterval is how long a change waits for a checkpoint. Default 30 s.
	CheckpointInterval time.Duration
	// AckDelay is how long an acknowledgement waits for a publish to ride with.
	// Default 5 ms.
	AckDelay time.Duration
	// CacheBytes bounds the memory for recent and recently read data. Default 8 MiB.
	CacheBytes int64
	// DestageAge is how long a journal segment that is full is kept; what is still needed
	// then is copied to segments of the topics. Default 30 s.
	DestageAge time.Duration
	// DestageSegments is how many journal segments are in use before the oldest is copied
	// at once. Default 8.
	DestageSegments int
	// Master wraps the keys with which everything new is encrypted. It is needed to open a
	// directory that was encrypted with it. Default nil: what is new is in clear.
	Master Master
	// Now is the wall clock. Default time.Now.
	Now func() time.Time
	// ReadOnly opens a stopped directory for looking at it and changes nothing.
	ReadOnly bool
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
}

const (
	kib = 1 << 10
	mib = 1 << 20

	// maxMessage bounds a message, maxUnit what one Publish or Atomic writes.
	maxMessage = 64 * mib
	maxUnit    = 128 * mib
	// maxBatch is where publishers start to wait for the batch to be taken. Only a unit
	// that is larger by itself makes a larger frame.
	maxBatch = 4 * mib
	// maxSegment leaves room for a position in 28 bits even when a large frame makes a
	// segment grow.
	maxSegment = 128 * mib
	// minSegment is the least that is pre-written.
	minSegment = 4 * kib

	defaultReserve = 512 * mib
	reserveShare   = 20 // of the filesystem: 5 %
	segmentShare   = 32 // of the filesystem: the largest segment, about 3 %
	retryFull      = time.Second
)

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.SegmentSize <= 0 {
		o.SegmentSize = 4 * mib
	}
	o.SegmentSize = min(max(o.SegmentSize, minSegment), maxSegment)
	if o.MaxSegmentSize <= 0 {
		o.MaxSegmentSize = 64 * mib
	}
	o.MaxSegmentSize = min(max(o.MaxSegmentSize, o.SegmentSize), maxSegment)
	if o.CheckpointBytes <= 0 {
		o.CheckpointBytes = 64 * mib
	}
	if o.CheckpointInterval <= 0 {
		o.CheckpointInterval = 30 * time.Second
	}
	if o.AckDelay <= 0 {
		o.AckDelay = 5 * time.Millisecond
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 8 * mib
	}
	if o.DestageAge <= 0 {
		o.DestageAge = 30 * time.Second
	}
	if o.DestageSegments <= 0 {
		o.DestageSegments = 8
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}
