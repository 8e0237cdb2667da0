package watermill

import (
	"time"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
)

// Defaults of the options.
const (
	defaultBatch   = 256
	defaultTimeout = 30 * time.Second
	maxBatch       = 10_000
	maxCompeting   = 256
)

// In is what a user writes under the connector's name of an input. A configuration with
// more options embeds it.
type In struct {
	// Topic is what is subscribed to.
	Topic string `yaml:"topic,required"`
	// Subscriptions is how many subscriptions compete for the messages: 1 keeps the order of
	// the Pub/Sub, more are faster where it delivers one message at a time. The Pub/Sub must
	// share messages out among them, as consumer groups do. Default: 1.
	Subscriptions int `yaml:"subscriptions"`
	// Batch is how many messages are handed on at once at most, when so many are there.
	// Default: 256.
	Batch int `yaml:"batch"`
}

// Inbound is a configuration that embeds In.
type Inbound interface{ inbound() In }

func (c In) inbound() In { return c }

func (c In) complete() In {
	if c.Subscriptions == 0 {
		c.Subscriptions = 1
	}
	if c.Batch == 0 {
		c.Batch = defaultBatch
	}
	return c
}

// Check implements connectors.Checker. A configuration with a Check of its own calls it.
func (c *In) Check(n config.Node, r *config.Report) {
	if c.Topic == "" {
		r.Errorf(n.Get("topic"), "LS1150", "write the name of the topic", "the topic is empty")
	}
	if c.Subscriptions < 0 || c.Subscriptions > maxCompeting {
		r.Errorf(n.Get("subscriptions"), "LS1150", "write a number from 1 to 256", "%d subscriptions are not possible", c.Subscriptions)
	}
	if c.Batch < 0 || c.Batch > maxBatch {
		r.Errorf(n.Get("batch"), "LS1150", "write a number from 1 to 10000", "a batch of %d messages is not possible", c.Batch)
	}
}

// Traits implements connectors.Traited: subscriptions that compete keep no order.
func (c In) Traits(t connectors.Traits) connectors.Traits {
	if c.Subscriptions > 1 {
		t.OrderKey = ""
	}
	return t
}

// Out is what a user writes under the connector's name of an output. A configuration
// with more options embeds it; NewOut is its default.
type Out struct {
	// Topic is where messages go. It may be computed, with a text in front or an allow list.
	Topic config.Option `yaml:"topic,required"`
	// OneByOne publishes each message with a call of its own. It is slower; after an error
	// only those are sent again that were not published.
	OneByOne bool `yaml:"one_by_one"`
	// Timeout is how long one call may take. Default: 30s.
	Timeout time.Duration `yaml:"timeout"`
}

// NewOut returns the defaults of Out, for a configuration that embeds it.
func NewOut() Out { return Out{Topic: config.Option{Destination: true}, Timeout: defaultTimeout} }

// Outbound is a configuration that embeds Out.
type Outbound interface{ outbound() Out }

func (c Out) outbound() Out { return c }

func (c Out) complete() Out {
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return c
}

// Check implements connectors.Checker. A configuration with a Check of its own calls it.
func (c *Out) Check(n config.Node, r *config.Report) {
	if c.Topic.IsZero() {
		r.Errorf(n.Get("topic"), "LS1150", "write the name of the topic", "the topic is empty")
	}
	if c.Timeout < 0 {
		r.Errorf(n.Get("timeout"), "LS1150", "write a duration such as 30s", "a timeout is not negative")
	}
}
