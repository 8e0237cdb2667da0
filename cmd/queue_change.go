package cmd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/linkspan/linkspan/internal/console"
	"github.com/linkspan/linkspan/queue"
)

// instant is a flag: an instant, or how long ago it was.
type instant time.Time

// String implements pflag.Value.
func (i *instant) String() string {
	if t := time.Time(*i); !t.IsZero() {
		return t.Format(time.RFC3339)
	}
	return ""
}

// Type implements pflag.Value.
func (i *instant) Type() string { return "TIME" }

// Set implements pflag.Value.
func (i *instant) Set(text string) error {
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		*i = instant(time.Now().Add(-ago))
		return nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return errors.New("write an instant such as 2026-01-31T12:00:00Z, or how long ago, such as 15m")
	}
	*i = instant(t)
	return nil
}

// changes is a command that gives an order about a topic.
type changes struct {
	order console.QueueChange
	at    location
	// flags of a place
	offset           uint64
	since            instant
	earliest, latest bool
}

func (c *changes) command(io stdio, use, short, long, example string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + changeExitCodes, Example: example, Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(cmd); err != nil {
				return err
			}
			if err := c.carryOut(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintln(io.out, "done")
			return nil
		},
	}
	if c.order.Do != "rotate" {
		cmd.Flags().StringVar(&c.order.Topic, "topic", "", "the topic: the name of a pipeline, or NAME.dead")
	}
	c.at.flags(cmd)
	return cmd
}

// changeExitCodes ends the help of what changes a directory.
const changeExitCodes = `

Exit codes: 0 done, and stable; 1 there is no such topic or subscription, or it is in
use; 2 usage; 4 there is no queue, or the process that holds it does not answer.`

func (c *changes) places(cmd *cobra.Command) {
	cmd.Flags().Uint64Var(&c.offset, "offset", 0, "the place: an offset")
	cmd.Flags().Var(&c.since, "since", "the place: an instant (RFC 3339), or how long ago (15m)")
	cmd.Flags().BoolVar(&c.earliest, "earliest", false, "the place: the earliest message")
	cmd.Flags().BoolVar(&c.latest, "latest", false, "the place: the end")
}

func (c *changes) check(cmd *cobra.Command) error {
	if cmd.Flags().Lookup("topic") != nil && c.order.Topic == "" {
		return usageError("--topic is missing; `linkspan queue stats` lists the topics")
	}
	if cmd.Flags().Lookup("subscription") != nil && c.order.Subscription == "" {
		return usageError("--subscription is missing; `linkspan queue stats` lists them")
	}
	if cmd.Flags().Lookup("latest") == nil {
		return nil
	}
	if cmd.Flags().Changed("offset") {
		c.order.Offset = &c.offset
	}
	c.order.Since, c.order.Earliest, c.order.Latest = time.Time(c.since), c.earliest, c.latest
	if _, err := c.order.Start(); err != nil {
		return usageError("say where with exactly one of --offset, --since, --earliest and --latest")
	}
	return nil
}

// carryOut gives the order to the process that holds the directory, or opens it.
func (c *changes) carryOut(ctx context.Context) error {
	if c.order.KeyFile != "" { // it may be read by another process
		full, err := filepath.Abs(c.order.KeyFile)
		if err != nil {
			return err
		}
		c.order.KeyFile = full
	}
	d, err := openDirectory(ctx, &c.at)
	if err != nil {
		return err
	}
	if d.live != nil {
		err := d.live.Change(ctx, c.order)
		return asExit(errors.Join(err, d.close()))
	}
	if err := d.close(); err != nil {
		return err
	}
	q, master, err := c.at.open(ctx)
	if err != nil {
		return err
	}
	keys := &rotation{queue: q, master: master}
	err = console.Writer{Queue: q, Rotate: keys.rotate}.Change(ctx, c.order)
	return asExit(errors.Join(err, q.Close(context.WithoutCancel(ctx))))
}

// asExit makes a failed order end with 1, and a failed queue with 4.
func asExit(err error) error {
	if err == nil {
		return nil
	}
	code := exitFailed
	if errors.Is(err, queue.ErrStorageFailed) || errors.Is(err, queue.ErrLocked) {
		code = exitEnvironment
	}
	return &exitError{code, err.Error()}
}

func newQueueSeek(io stdio) *cobra.Command {
	c := &changes{order: console.QueueChange{Do: "seek"}}
	cmd := c.command(io, "seek --topic TOPIC --subscription NAME", "let a subscription go on at another place",
		`seek makes a subscription go on at a place: what is before it counts as processed, and
what is behind it comes again, as far as the topic still has it. What a running pipeline
has in flight may be delivered all the same. A pipeline's subscription is called lanes.
delivery.keep says how long a topic has what was delivered.`,
		"  linkspan queue seek --topic orders --subscription lanes --since 1h\n  linkspan queue seek --topic orders --subscription lanes --offset 1200")
	cmd.Flags().StringVar(&c.order.Subscription, "subscription", "", "the subscription")
	c.places(cmd)
	return cmd
}

func newQueuePurge(io stdio) *cobra.Command {
	c := &changes{order: console.QueueChange{Do: "purge"}}
	cmd := c.command(io, "purge --topic TOPIC", "remove messages that wait, for good",
		`purge settles all messages before a place for every subscription. They are gone for
good: nothing brings them back. Those that a running pipeline has in flight
(delivery.max_in_flight) may still be delivered.`,
		"  linkspan queue purge --topic orders --latest\n  linkspan queue purge --topic orders --offset 1200")
	c.places(cmd)
	return cmd
}

func newQueueDelete(io stdio) *cobra.Command {
	c := &changes{order: console.QueueChange{Do: "delete"}}
	return c.command(io, "delete --topic TOPIC", "delete a topic with its messages, for good",
		`delete removes a topic, its messages and its subscriptions. The topics of a running
pipeline are refused.`,
		"  linkspan queue delete --topic old-orders")
}

func newQueueUnsubscribe(io stdio) *cobra.Command {
	c := &changes{order: console.QueueChange{Do: "unsubscribe"}}
	cmd := c.command(io, "unsubscribe --topic TOPIC --subscription NAME", "delete a subscription",
		`unsubscribe removes a subscription: the topic keeps nothing for it any more. Those of a
running pipeline are refused.`,
		"  linkspan queue unsubscribe --topic orders --subscription audit")
	cmd.Flags().StringVar(&c.order.Subscription, "subscription", "", "the subscription")
	return cmd
}

func newQueueResume(io stdio) *cobra.Command {
	c := &changes{order: console.QueueChange{Do: "resume"}}
	return c.command(io, "resume --topic TOPIC", "let a topic go on that lost messages to damage",
		`resume lets a topic go on that is held because storage was damaged and messages are
lost (on_damage: hold). Look at the loss first, with verify.`,
		"  linkspan queue resume --topic orders")
}
