// Command bridges measures what a message costs linkspan and Bento on the way between
// real brokers, and prints one table with the targets and whether they were met.
//
//	go run ./bridges            about 6 minutes
//	go run ./bridges -short     about 2 minutes
//
// The brokers are those that test/brokers/brokers has started; flags name others. Both
// programs run as processes of their own and do the same work: orders of 1.1 KB, a filter
// on two fields, a hash, a partial mask, a field removed, a constant and a computed field
// set, a destination out of three. They take turns, round after round; a figure is the
// median of the rounds, with the lowest and the highest. A ratio is that of two figures
// of the same round.
//
// CPU is user and system time of the process, from when it says that it is ready until
// the last order has arrived, for each order of the source. This program reads the
// destinations and counts what is lost, comes twice, is out of order or is wrong. CPU
// time is read from /proc, so it needs Linux.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // this is main
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// options is what the flags say.
type options struct {
	short, own           bool
	rounds, factor       int
	paths                []string
	linkspan, peer, dir  string
	kafka, rabbit, mosqu string
}

func command(ctx context.Context, args []string, out, progress io.Writer) error {
	flags := flag.NewFlagSet("bridges", flag.ContinueOnError)
	flags.SetOutput(progress)
	env := brokersEnv()
	var o options
	flags.BoolVar(&o.short, "short", false, "one round with fewer orders")
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	flags.IntVar(&o.factor, "factor", 1, "how many times as many orders are sent, for profiles")
	only := flags.String("paths", "kafka,rabbitmq,mqtt", "what is measured")
	flags.BoolVar(&o.own, "own", false, "leave out the peer")
	flags.StringVar(&o.linkspan, "linkspan", "", "the program to measure; the default is built")
	flags.StringVar(&o.peer, "peer", "", "the peer; the default is built")
	flags.StringVar(&o.dir, "dir", "", "where to put the data; the default is a new directory in TMPDIR")
	flags.StringVar(&o.kafka, "kafka", env["LS_KAFKA_BROKERS"], "host:port of the Kafka broker")
	flags.StringVar(&o.rabbit, "rabbitmq", env["LS_RABBITMQ_AMQP_URL"], "URL of RabbitMQ with user and password")
	flags.StringVar(&o.mosqu, "mosquitto", env["LS_MOSQUITTO_ANON_URL"], "URL of Mosquitto, which needs no password and queues without a bound")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.paths = strings.Split(*only, ",")
	for _, name := range o.paths {
		if !slices.Contains([]string{kafkaPath, rabbitPath, mqttPath}, name) {
			return fmt.Errorf("there is no path %q", name)
		}
	}
	if o.short {
		o.rounds = 1
	}
	return measure(ctx, o, out, progress)
}

func measure(ctx context.Context, o options, out, progress io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "linkspan-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	start := time.Now()
	b := &bench{options: o, dir: dir, results: results{}, progress: progress}
	if err := b.build(ctx); err != nil {
		return err
	}
	if err := b.run(ctx); err != nil {
		return err
	}
	b.say("took %v", time.Since(start).Round(time.Second))
	return b.results.write(out, rows(o))
}
