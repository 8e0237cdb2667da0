package mqtt

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What QoS 0 and MQTT 3.1.1 cannot do is known to the compiler.
func TestTraits(t *testing.T) {
	source := Spec().Source.Traits
	if c := (&SourceConfig{QoS: 0}); c.Traits(source).Redelivers {
		t.Error("QoS 0 is said to send again")
	}
	if c := (&SourceConfig{Listen: "x:1"}); !c.Traits(source).Redelivers {
		t.Error("clients of the listener are said not to send again")
	}
	sink := Spec().Sink.Traits
	if got := (&SinkConfig{QoS: 0, Version: "3.1.1"}).Traits(sink); got.Confirms || got.Headers || got.Carries.ReplyTo != "" {
		t.Errorf("QoS 0 over 3.1.1 can do %+v", got)
	}
	if got := (&SinkConfig{QoS: 1, Version: "5"}).Traits(sink); !cmp.Equal(got, sink) {
		t.Errorf("QoS 1 over 5 can do %+v", got)
	}
}
