//go:build brokers

package redisstreams

import (
	"testing"

	"github.com/linkspan/linkspan/test/brokers/brokersenv"
)

func TestBrokerSuite(t *testing.T) {
	runSuite(t, brokersenv.Need(t, "redis", "LS_REDIS_ADDR"), brokersenv.Need(t, "redis", "LS_REDIS_USER"), brokersenv.Need(t, "redis", "LS_REDIS_PASS"))
}
