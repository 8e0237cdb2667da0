// Package plant holds known mistakes that a build with the tag planted can switch on,
// one at a time, to prove that the tests find them. Without the tag it says no to
// everything, and the compiler removes what depends on it.
//
// testdata/plants.txt of the journal says what each of them does, which failure of a real
// program it copies, and which test finds it.
package plant

// Bug is a mistake.
type Bug string

// The mistakes.
const (
	SkipDirSync      Bug = "skip-dir-sync"
	AckBeforeSync    Bug = "ack-before-sync"
	ReadUncommitted  Bug = "read-uncommitted"
	RetrySync        Bug = "retry-sync"
	GoOnAfterError   Bug = "go-on-after-error"
	ReuseTornTail    Bug = "reuse-torn-tail"
	NumberTornTail   Bug = "number-torn-tail"
	RecycleFirst     Bug = "recycle-first"
	FreeEarly        Bug = "free-early"
	StaleCache       Bug = "stale-cache"
	OldFrames        Bug = "old-frames"
	OldEpochs        Bug = "old-epochs"
	NoTailMark       Bug = "no-tail-mark"
	UnsyncedSpare    Bug = "unsynced-spare"
	UnsyncedReplay   Bug = "unsynced-replay"
	UnsyncedNames    Bug = "unsynced-names"
	RecordHeaderCRC  Bug = "record-header-crc"
	FrameHeaderCRC   Bug = "frame-header-crc"
	BodyCRC          Bug = "body-crc"
	NoOrder          Bug = "no-order"
	NoChain          Bug = "no-chain"
	IgnoreCut        Bug = "ignore-cut"
	SplitAtomic      Bug = "split-atomic"
	OffsetGap        Bug = "offset-gap"
	UnsyncedState    Bug = "unsynced-checkpoint"
	AckAhead         Bug = "ack-ahead"
	AckForgotten     Bug = "ack-forgotten"
	LostWakeup       Bug = "lost-wakeup"
	SkipHeld         Bug = "skip-held"
	FullRefusesAcks  Bug = "full-refuses-acks"
	EarlyDelivery    Bug = "early-delivery"
	ExpiredDelivered Bug = "expired-delivered"
	NackForgotten    Bug = "nack-forgotten"
	DedupTooMuch     Bug = "dedup-too-much"
	DedupForgets     Bug = "dedup-forgets"
	KeyOvertakes     Bug = "key-overtakes"
	PriorityIgnored  Bug = "priority-ignored"
	SeekForgotten    Bug = "seek-forgotten"
	PurgeForgotten   Bug = "purge-forgotten"
	DeleteForgotten  Bug = "delete-forgotten"
)
