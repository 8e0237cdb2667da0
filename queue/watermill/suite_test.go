package watermill_test

import (
	"context"
	"flag"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
	"github.com/linkspan/linkspan/queue/memory"
	"github.com/linkspan/linkspan/queue/watermill"
)

var stress = flag.Bool("stress", false, "run Watermill's suite STRESS_TEST_COUNT times (default 10) at once, with all its messages")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// journalEngine returns an engine on the disk, closed with the test.
func journalEngine(t *testing.T) queue.Engine {
	t.Helper()
	e, err := journal.Open(t.Context(), t.TempDir(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return closed(t, e)
}

func memoryEngine(t *testing.T) queue.Engine {
	t.Helper()
	return closed(t, memory.New())
}

// closed closes the engine at the end of the test.
func closed(t *testing.T, e queue.Engine) queue.Engine {
	t.Helper()
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

// features is what an engine promises through this package, in the suite's words.
//
// ExactlyOnceDelivery is false: an acknowledgement is stable with the next commit, so
// a crash before it is a redelivery. NewSubscriberReceivesOldMessages is false: what
// every group has acknowledged is gone, and a new member of a group competes.
// Persistent means that messages outlive the Publisher and the Subscriber; they live as
// long as the engine does, which is the journal's storage or the memory engine.
// RestartServiceCommand is empty because the engine is no service; TestRestart closes
// and opens the journal instead.
func features(maxInFlight int) tests.Features {
	return tests.Features{
		ConsumerGroups:                      true,
		Persistent:                          true,
		GuaranteedOrder:                     maxInFlight == 1,
		GuaranteedOrderWithSingleSubscriber: maxInFlight == 1,
		ForceShort:                          !*stress && testing.Short(),
	}
}

// pubSub returns constructors over one engine, as processes would share one broker.
func pubSub(e queue.Engine, maxInFlight int) (tests.PubSubConstructor, tests.ConsumerGroupPubSubConstructor) {
	inGroup := func(t *testing.T, group string) (wm.Publisher, wm.Subscriber) {
		t.Helper()
		sub, err := watermill.NewSubscriber(e, watermill.SubscriberConfig{
			Group: group, MaxInFlight: maxInFlight, NackResendDelay: time.Millisecond, CloseTimeout: time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		return watermill.NewPublisher(e, watermill.PublisherConfig{}), sub
	}
	return func(t *testing.T) (wm.Publisher, wm.Subscriber) {
		t.Helper()
		return inGroup(t, "all")
	}, inGroup
}

func TestPubSub(t *testing.T) {
	run := tests.TestPubSub
	if *stress {
		run = tests.TestPubSubStressTest
	}
	for name, open := range map[string]func(*testing.T) queue.Engine{"journal": journalEngine, "memory": memoryEngine} {
		for profile, maxInFlight := range map[string]int{"in order": 1, "concurrent": 256} {
			t.Run(name+"/"+profile, func(t *testing.T) {
				single, inGroup := pubSub(open(t), maxInFlight)
				run(t, features(maxInFlight), single, inGroup)
			})
		}
	}
}
