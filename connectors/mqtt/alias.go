package mqtt

import (
	"sync"
	"sync/atomic"
)

// aliases are the topics that the broker of one connection knows by a number (MQTT 5
// §3.3.2.3.4), so that they need not be sent again.
type aliases struct {
	max uint16

	mu     sync.Mutex
	topics map[string]*alias
}

// alias is the number of a topic. It may stand for the topic once the packet that told
// the broker has been written; until then every packet tells it, because packets of
// several calls overtake one another.
type alias struct {
	number uint16
	known  atomic.Bool
}

func newAliases(limit uint16) aliases { return aliases{max: limit, topics: map[string]*alias{}} }

// of returns the alias of a topic, or nil when all numbers are given away.
func (a *aliases) of(topic []byte) *alias {
	a.mu.Lock()
	defer a.mu.Unlock()
	if found := a.topics[string(topic)]; found != nil || len(a.topics) >= int(a.max) {
		return found
	}
	made := &alias{number: uint16(len(a.topics) + 1)}
	a.topics[string(topic)] = made
	return made
}

// alias replaces a topic by its number, or tells the number beside the topic.
func (o *outbox) alias(topic, props []byte) (sent, list []byte) {
	if o.out.aliases.max == 0 {
		return topic, props
	}
	a := o.out.aliases.of(topic)
	if a == nil {
		return topic, props
	}
	if a.known.Load() {
		topic = nil
	} else {
		o.told = append(o.told, a)
	}
	return topic, appendU16(props, propTopicAlias, a.number)
}

// aliasSize is what telling an alias adds to a packet.
const aliasSize = 3
