package watermill_test

import (
	"context"
	"fmt"
	"log"
	"os"

	wm "github.com/ThreeDotsLabs/watermill/message"

	"github.com/linkspan/linkspan/queue/journal"
	"github.com/linkspan/linkspan/queue/watermill"
)

// A program with a durable queue inside: no broker, one directory.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "orders")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	engine, err := journal.Open(ctx, dir, journal.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close(ctx)

	subscriber, err := watermill.NewSubscriber(engine, watermill.SubscriberConfig{Group: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	defer subscriber.Close()

	publisher := watermill.NewPublisher(engine, watermill.PublisherConfig{})
	order := wm.NewMessage("order-17", []byte(`{"total": 42}`))
	order.Metadata.Set("country", "SE")
	if err := publisher.Publish("orders", order); err != nil { // nil means: it is on disk
		log.Fatal(err)
	}

	orders, err := subscriber.Subscribe(ctx, "orders")
	if err != nil {
		log.Fatal(err)
	}
	m := <-orders
	fmt.Println(m.UUID, m.Metadata.Get("country"), string(m.Payload))
	m.Ack()
	// Output: order-17 SE {"total": 42}
}
