package stomp

import "testing"

// What the mode of acknowledgement and the side change is known to the compiler.
func TestTraits(t *testing.T) {
	base := Spec().Source.Traits
	if got := (&SourceConfig{Listen: "x:1", Ack: ackAuto}).Traits(base); !got.Redelivers || got.Brokered || got.OrderKey != "connection and destination" {
		t.Errorf("a listener can do %+v", got)
	}
	if got := (&SourceConfig{Ack: ackIndividual}).Traits(base); !got.Redelivers || !got.Brokered || got.OrderKey != "destination" {
		t.Errorf("a subscription can do %+v", got)
	}
	if got := (&SourceConfig{Ack: ackAuto}).Traits(base); got.Redelivers {
		t.Error("without acknowledgements it is said to send again")
	}
}
