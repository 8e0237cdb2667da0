package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/memory"
	"github.com/linkspan/linkspan/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	queuetest.Run(t, func(*testing.T) queuetest.Features {
		return queuetest.Features{Open: func(*testing.T) queue.Engine { return memory.New() }}
	})
}
