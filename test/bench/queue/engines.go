package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/queue/journal"
)

// store is what is measured of an engine. It is safe for concurrent use.
type store interface {
	// publisher returns a function that publishes one message to a topic of 0 and up and
	// returns when it is on stable storage. Each goroutine has its own.
	publisher(topic int) func(ctx context.Context, payload []byte) error
	// subscribe prepares the consumption of topic 0.
	subscribe(ctx context.Context) error
	// consume waits for messages of topic 0, takes up to limit of them, acknowledges them
	// one by one and returns their number.
	consume(ctx context.Context, limit int) (int, error)
	close(ctx context.Context) error
}

// variant is an engine with its options: a column of the table.
type variant struct {
	name string
	open func(ctx context.Context, dir string, topics int) (store, error)
	// base names the variant that this one is held against, and atLeast the share of its
	// rate at 64 publishers that it should reach. Empty for an engine of its own.
	base    string
	atLeast float64
}

const (
	own  = "journal"
	peer = "pebble"
)

// variants lists what is compared. The journal with other options is one more line.
func variants() []variant {
	return []variant{
		{name: own, open: openJournal(journal.Options{})},
		{name: peer, open: openPebble},
		{name: "encrypted", open: openEncrypted, base: own, atLeast: 0.85},
	}
}

func openEncrypted(ctx context.Context, dir string, topics int) (store, error) {
	master, err := journal.MasterOf(make([]byte, 32)) // any key costs the same
	if err != nil {
		return nil, err
	}
	return openJournal(journal.Options{Master: master})(ctx, dir, topics)
}

// journalStore is the product's engine.
type journalStore struct {
	engine queue.Engine
	topics []queue.Topic
	sub    queue.Subscription
}

func openJournal(o journal.Options) func(ctx context.Context, dir string, topics int) (store, error) {
	return func(ctx context.Context, dir string, topics int) (store, error) {
		e, err := journal.Open(ctx, dir, o)
		if err != nil {
			return nil, err
		}
		s := &journalStore{engine: e, topics: make([]queue.Topic, topics)}
		for i := range s.topics {
			if s.topics[i], err = e.Topic(ctx, strconv.Itoa(i)); err != nil {
				return nil, err
			}
		}
		return s, nil
	}
}

func (s *journalStore) publisher(topic int) func(ctx context.Context, payload []byte) error {
	msgs := []message.Message{{ID: strconv.Itoa(topic)}}
	return func(ctx context.Context, payload []byte) error {
		msgs[0].Payload = payload
		_, err := s.topics[topic].Publish(ctx, msgs)
		return err
	}
}

func (s *journalStore) subscribe(ctx context.Context) (err error) {
	s.sub, err = s.topics[0].Subscribe(ctx, "s", queue.SubOptions{MaxInFlight: consumers * receiveLimit})
	return err
}

func (s *journalStore) consume(ctx context.Context, limit int) (int, error) {
	records, err := s.sub.Receive(ctx, limit)
	if err != nil {
		return 0, err
	}
	offsets := make([]uint64, len(records))
	for i := range records {
		if len(records[i].Message.Payload) != payloadSize {
			return 0, fmt.Errorf("message %d has %d bytes", records[i].Offset, len(records[i].Message.Payload))
		}
		offsets[i] = records[i].Offset
	}
	return len(records), s.sub.Ack(offsets...)
}

func (s *journalStore) close(ctx context.Context) error { return s.engine.Close(ctx) }
