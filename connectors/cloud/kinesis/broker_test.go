//go:build brokers

package kinesis

import (
	"testing"

	"github.com/linkspan/linkspan/connectors/cloud/internal/kinesalite"
)

func TestBrokerSuite(t *testing.T) { runSuite(t, kinesalite.Start(t)) }

func TestBrokerSplit(t *testing.T) { splits(t, kinesalite.Start(t)) }
