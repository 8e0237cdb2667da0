package main

import (
	"context"
	"errors"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	mqttClient = "bench" // the bridge's
	mqttTopic  = "bench/orders"
	mqttWindow = 1000 // publishes without their PUBACK
)

// mqtt carries from a topic at QoS 1 to three queues of RabbitMQ.
type mqtt struct {
	*rabbit
	url string
}

func newMQTT(_ context.Context, address, rabbitURL string) (path, error) {
	if address == "" {
		return nil, errors.New("no broker is known: start one with test/brokers/brokers up mosquitto, or set -mosquitto")
	}
	r, err := openRabbit(rabbitURL)
	if err != nil {
		return nil, err
	}
	return &mqtt{rabbit: r, url: address}, nil
}

func (m *mqtt) env() []string { return append(m.rabbit.env(), "MOSQUITTO="+m.url) }

// prepare empties the destinations and makes the bridge's session anew, so that nothing
// that is published later can be missed.
func (m *mqtt) prepare(ctx context.Context, _ *work) error {
	if err := m.with(func(ch *amqp.Channel) error { return m.destinations(ch) }); err != nil {
		return err
	}
	if err := m.session(ctx, mqttClient, true, func(paho.Client) error { return nil }); err != nil {
		return err
	}
	return m.session(ctx, mqttClient, false, func(c paho.Client) error {
		return wait(ctx, c.Subscribe("bench/#", 1, nil))
	})
}

// send publishes as fast as Mosquitto takes it.
func (m *mqtt) send(ctx context.Context, w *work) error {
	return m.session(ctx, "bench-sender", true, func(c paho.Client) error {
		tokens := make([]paho.Token, mqttWindow)
		for seq := range w.n + mqttWindow {
			at := seq % mqttWindow
			if tokens[at] != nil {
				if err := wait(ctx, tokens[at]); err != nil {
					return err
				}
				tokens[at] = nil
			}
			if seq < w.n {
				tokens[at] = c.Publish(mqttTopic, 1, false, w.payload(seq))
			}
		}
		return nil
	})
}

func (m *mqtt) session(ctx context.Context, id string, clean bool, f func(paho.Client) error) error {
	o := paho.NewClientOptions().AddBroker(strings.Replace(m.url, "mqtt://", "tcp://", 1)).
		SetClientID(id).SetCleanSession(clean).SetAutoReconnect(false).SetConnectTimeout(10 * time.Second)
	c := paho.NewClient(o)
	if err := wait(ctx, c.Connect()); err != nil {
		return err
	}
	defer c.Disconnect(100)
	return f(c)
}

func wait(ctx context.Context, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}
