package pipelines

import (
	"context"
	"slices"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/routing"
)

// impliesReply reports whether the route names the reserved sink without that out
// says anything about it.
func (c *planner) impliesReply() bool {
	if !c.file.Out.Get(routing.Reply).IsZero() {
		return false
	}
	named := func(n config.Node) bool {
		return n.IsScalar() && n.Text() == routing.Reply ||
			slices.ContainsFunc(n.Items(), func(item config.Node) bool { return item.Text() == routing.Reply })
	}
	return slices.ContainsFunc(c.file.Route.Items(), func(rule config.Node) bool {
		return named(rule.Get("to")) || named(rule.Get("else"))
	})
}

func (c *planner) onlyKeys(n config.Node, keys ...string) {
	for _, f := range n.Fields() {
		if !slices.Contains(keys, f.Name) {
			c.report.Errorf(f.Key, "LS1104", config.Suggest(f.Name, keys), "unknown key %q", f.Name)
		}
	}
}

// replyPlan is the reserved sink. What waits for the reply is in this process, so
// nothing gets lost on the way.
func replyPlan() SinkPlan {
	none, _ := (&jsonscan.Builder{}).Build() // no paths cannot be too many
	return SinkPlan{
		Name: routing.Reply, Connector: routing.Reply, paths: none,
		Traits: connectors.Traits{Confirms: true, Headers: true, Carries: connectors.Properties{
			ID: "id", CorrelationID: "correlation id", ReplyTo: "reply-to", ContentType: "content type",
			Priority: "priority", Expires: "expiry", Kinds: connectors.AllKinds(), Repeats: true,
		}},
		build: func(e connectors.Env) (connectors.Sink, error) { return replySink{e.Replies}, nil },
	}
}

// replySink hands replies to the requests that wait for them.
type replySink struct{ replies *connectors.Replies }

// Open implements connectors.Sink.
func (replySink) Open(context.Context) error { return nil }

// Close implements connectors.Sink.
func (replySink) Close(context.Context) error { return nil }

// Handle implements message.Handler.
func (s replySink) Handle(_ context.Context, b *message.Batch) error {
	var failed []message.Failed
	for i := range b.Messages {
		if err := s.replies.Deliver(&b.Messages[i]); err != nil {
			failed = append(failed, message.Failed{Index: i, Err: &message.Reason{Code: "LS2505", Text: err.Error(), Permanent: true}})
		}
	}
	if failed != nil {
		return &message.PartialError{Failed: failed}
	}
	return nil
}
