package console

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/linkspan/linkspan/pipelines"
	"github.com/linkspan/linkspan/queue"
)

// metrics serves the metrics of this process. Everything is read when somebody
// asks; nothing is added up for it while messages flow.
func (s *Server) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(s),
	)
	// Two at once are enough for a scraper and somebody who looks.
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 2})
}

// collector turns the state of the pipelines and the queue into metrics.
type collector struct {
	server *Server
	build  *prometheus.Desc
	ready  *prometheus.Desc

	backlog, inFlight, deadLetters    *prometheus.Desc
	dropped, deadLettered             *prometheus.Desc
	received, sourceRefused, restarts *prometheus.Desc
	sourceUp                          *prometheus.Desc
	delivered, sinkRefused, sinkAway  *prometheus.Desc
	sinkUp                            *prometheus.Desc
	queueUp                           *prometheus.Desc

	topicHeld, topicDuplicates                                 *prometheus.Desc
	subscriptionDelayed, subscriptionExpired, subscriptionDead *prometheus.Desc
	topicMessages, topicBytes                                  *prometheus.Desc
	topicAppended                                              *prometheus.Desc
	subscriptionBacklog, subscriptionF                         *prometheus.Desc
}

func newCollector(s *Server) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("linkspan_"+name, help, labels, nil)
	}
	return &collector{
		server: s,
		build:  desc("build_info", "Always 1; the labels say what runs.", "version", "revision", "go"),
		ready:  desc("ready", "1 when /ready answers 200, else 0."),

		backlog:      desc("pipeline_backlog_messages", "Messages in the queue that are not settled.", "pipeline"),
		inFlight:     desc("pipeline_in_flight_messages", "Messages of the backlog that lanes work on.", "pipeline"),
		deadLetters:  desc("pipeline_dead_letters_messages", "Dead letters that wait for a decision.", "pipeline"),
		dropped:      desc("dropped_messages_total", "Messages that a step or a rule dropped, by the place that says so.", "pipeline", "step"),
		deadLettered: desc("dead_lettered_messages_total", "Messages that became dead letters, by code.", "pipeline", "code"),

		received:      desc("source_received_messages_total", "Messages that a source took over: they are on stable storage.", "pipeline", "source"),
		sourceRefused: desc("source_refused_messages_total", "Messages that were refused before they were stored.", "pipeline", "source"),
		restarts:      desc("source_restarts_total", "Starts of a source after it lost its peer.", "pipeline", "source"),
		sourceUp:      desc("source_running", "1 while the source runs, 0 while it waits for its peer or after its end.", "pipeline", "source"),

		delivered:   desc("sink_delivered_messages_total", "Messages that the sink's peer took.", "pipeline", "sink"),
		sinkRefused: desc("sink_refused_messages_total", "Refusals of a message by the peer; each counts as an attempt.", "pipeline", "sink"),
		sinkAway:    desc("sink_unavailable_messages_total", "Tries that failed because the peer was not available; none counts as an attempt.", "pipeline", "sink"),
		sinkUp:      desc("sink_available", "1 while the sink's peer takes messages, 0 while they wait for it.", "pipeline", "sink"),

		queueUp:             desc("queue_healthy", "1, or 0 after the queue's storage has failed."),
		topicMessages:       desc("queue_topic_messages", "Messages that a topic holds for at least one subscription.", "topic"),
		topicBytes:          desc("queue_topic_bytes", "Bytes that these messages take.", "topic"),
		topicAppended:       desc("queue_topic_appended_messages_total", "Messages ever appended to the topic; it does not start anew with the process.", "topic"),
		subscriptionBacklog: desc("queue_subscription_backlog_messages", "Messages that a subscription has not settled.", "topic", "subscription"),
		topicHeld:           desc("queue_topic_held", "1 while the topic is held because messages were lost to damage.", "topic"),
		topicDuplicates:     desc("queue_topic_duplicates_total", "Messages that the deduplication window held back.", "topic"),
		subscriptionDelayed: desc("queue_subscription_delayed_messages", "Messages of that backlog that are known to wait for their time.", "topic", "subscription"),
		subscriptionExpired: desc("queue_subscription_expired_messages_total", "Messages that expired before they were handed out.", "topic", "subscription"),
		subscriptionDead:    desc("queue_subscription_dead_lettered_messages_total", "Messages given up after their last attempt.", "topic", "subscription"),
		subscriptionF:       desc("queue_subscription_in_flight_messages", "Messages of that backlog that are handed out.", "topic", "subscription"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.build, c.ready, c.backlog, c.inFlight, c.deadLetters, c.dropped, c.deadLettered,
		c.received, c.sourceRefused, c.restarts, c.sourceUp, c.delivered, c.sinkRefused, c.sinkAway, c.sinkUp,
		c.queueUp, c.topicMessages, c.topicBytes, c.topicAppended, c.subscriptionBacklog, c.subscriptionF,
		c.topicHeld, c.topicDuplicates, c.subscriptionDelayed, c.subscriptionExpired, c.subscriptionDead,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge(ch, c.build, 1, c.server.o.Version, c.server.o.Revision, runtime.Version())
	gauge(ch, c.ready, truth(c.server.state().Ready))
	gauge(ch, c.queueUp, truth(c.server.o.Queue.Health() == nil))
	if e := c.server.pipelines(); e != nil {
		for _, s := range e.Status() {
			c.pipeline(ch, &s)
		}
	}
	for _, name := range c.server.o.Queue.Topics() {
		c.topic(ch, name)
	}
}

func (c *collector) pipeline(ch chan<- prometheus.Metric, s *pipelines.Status) {
	gauge(ch, c.backlog, float64(s.Backlog), s.Name)
	gauge(ch, c.inFlight, float64(s.InFlight), s.Name)
	gauge(ch, c.deadLetters, float64(s.DeadLetters), s.Name)
	for step, n := range s.Dropped {
		counter(ch, c.dropped, n, s.Name, step)
	}
	for code, n := range s.Dead {
		counter(ch, c.deadLettered, n, s.Name, code)
	}
	for _, src := range s.Sources {
		counter(ch, c.received, src.Received, s.Name, src.Name)
		counter(ch, c.sourceRefused, src.Refused, s.Name, src.Name)
		counter(ch, c.restarts, src.Restarts, s.Name, src.Name)
		gauge(ch, c.sourceUp, truth(src.State == "running"), s.Name, src.Name)
	}
	for _, snk := range s.Sinks {
		counter(ch, c.delivered, snk.Delivered, s.Name, snk.Name)
		counter(ch, c.sinkRefused, snk.Refused, s.Name, snk.Name)
		counter(ch, c.sinkAway, snk.Unavailable, s.Name, snk.Name)
		gauge(ch, c.sinkUp, truth(snk.Available), s.Name, snk.Name)
	}
}

func (c *collector) topic(ch chan<- prometheus.Metric, name string) {
	stats, ok := c.stats(name)
	if !ok {
		return
	}
	gauge(ch, c.topicMessages, float64(stats.Messages), name)
	gauge(ch, c.topicBytes, float64(stats.Bytes), name)
	counter(ch, c.topicAppended, stats.Next, name)
	gauge(ch, c.topicHeld, truth(stats.Held), name)
	counter(ch, c.topicDuplicates, stats.Duplicates, name)
	for _, sub := range stats.Subscriptions {
		gauge(ch, c.subscriptionBacklog, float64(sub.Backlog), name, sub.Name)
		gauge(ch, c.subscriptionF, float64(sub.InFlight), name, sub.Name)
		gauge(ch, c.subscriptionDelayed, float64(sub.Delayed), name, sub.Name)
		counter(ch, c.subscriptionExpired, sub.Expired, name, sub.Name)
		counter(ch, c.subscriptionDead, sub.DeadLettered, name, sub.Name)
	}
}

// stats has no answer for a queue that has failed or is closed.
func (c *collector) stats(name string) (queue.TopicStats, bool) {
	t, err := c.server.o.Queue.Topic(c.server.group.Context(), name)
	if err != nil {
		return queue.TopicStats{}, false
	}
	return t.Stats(), true
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
