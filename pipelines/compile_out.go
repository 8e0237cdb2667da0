package pipelines

import (
	"fmt"

	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/expression"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/queue"
	"github.com/linkspan/linkspan/routing"
	"github.com/linkspan/linkspan/schemas"
	"github.com/linkspan/linkspan/transform"
)

func (c *planner) compileSinks(t *schemas.Type) {
	if c.impliesReply() {
		defer func() { c.plan.Sinks = append(c.plan.Sinks, replyPlan()) }() // behind those of out, as in the route
	}
	if c.file.Out.IsZero() {
		return
	}
	fields := c.file.Out.Fields()
	if len(fields) == 0 {
		c.report.Errorf(c.file.Out, "LS1324", "write NAME: {file: {path: out.ndjson}}", "out needs at least one sink")
	}
	for _, f := range fields {
		c.compileSink(f, t)
	}
}

func (c *planner) compileSink(f config.Field, t *schemas.Type) {
	paths := &jsonscan.Builder{}
	sc := c.stepCompiler(t, paths)
	s := SinkPlan{Name: f.Name}
	// A pipeline that does not look into the payload leaves it to the sink, so that what
	// is not JSON fails for this sink only.
	if s.shares = c.scans && len(f.Value.Get("steps").Items()) == 0; s.shares {
		sc = c.stepCompiler(t, c.paths)
	}
	var connector connectors.Spec
	var node config.Node
	if f.Name == routing.Reply {
		s = replyPlan()
		c.onlyKeys(f.Value, "steps", "headers")
	} else {
		connector, node = c.endpoint(f, []string{"steps", "headers"}, func(s connectors.Spec) bool { return s.Sink != nil })
	}
	s.Steps = c.compileSteps(f.Value.Get("steps"), "out."+f.Name+".steps", sc)
	if connector.Name != "" {
		if connector.Sink == nil {
			c.report.Errorf(f.Value, "LS1325", "use it under in", "%s cannot be a sink", connector.Name)
		} else {
			s.Connector = connector.Name
			c.compileOptions(&s, connector, node, sc)
		}
	}
	headers := c.headerList(f.Value.Get("headers"))
	if len(headers) > 0 && s.Connector != "" && !s.Traits.Headers {
		c.report.Errorf(f.Value.Get("headers"), "LS1331", "remove it, or set a field of the payload instead", "out.%s (%s) carries no headers", f.Name, s.Connector)
	}
	s.Headers, s.scans = headers, sc.Payload && !s.shares
	set, err := paths.Build()
	if err != nil {
		c.report.Errorf(f.Key, "LS1321", "split the sink", "%s", err)
		return
	}
	s.paths = set
	c.plan.Sinks = append(c.plan.Sinks, s)
}

// headerList reads the headers that may leave through a sink.
func (c *planner) headerList(n config.Node) []string {
	items := n.Items()
	if n.IsScalar() && !n.IsNull() {
		items = []config.Node{n}
	}
	var names []string
	for _, item := range items {
		if !item.IsScalar() || item.IsNull() || item.Text() == "" {
			c.report.Errorf(item, "LS1110", "write a list of names: [x-tenant, x-request-id]", "the name of a header is needed here")
			continue
		}
		names = append(names, item.Text())
	}
	if len(items) == 0 && !n.IsZero() && !n.IsSequence() {
		c.report.Errorf(n, "LS1110", "write a list of names: [x-tenant, x-request-id]", "headers lists the headers that may leave")
	}
	return names
}

func (c *planner) compileOptions(s *SinkPlan, connector connectors.Spec, node config.Node, sc *transform.Compiler) {
	build, traits, options := connector.Sink.Decode(node, c.report)
	s.build, s.Traits = build, traits
	for i, o := range options {
		o.Index = i
		at := o.Expr.Node.Position()
		where := transform.Where{Step: "out." + s.Name, File: at.File, Line: at.Line}
		p := expression.Compile(o.Expr, expression.Anything, sc.Scope, where.Step, c.report)
		if p == nil {
			continue
		}
		if o.Destination && len(o.Allow) == 0 && p.Prefix() == "" {
			c.report.Errorf(o.Expr.Node, "LS1332", "start it with a text: '\"orders/\" + …', or add allow: [a, b]", "a computed destination must start with a literal text or have an allow list, so that a sender cannot choose any")
		}
		sc.Payload = sc.Payload || p.ReadsPayload()
		s.options = append(s.options, optionPlan{program: p, allow: o.Allow, where: where})
	}
}

func (c *planner) checkDelivery() {
	d := &c.plan.Delivery
	n := c.file.Delivery
	if d.Retry.Attempts < 1 || d.MaxInFlight < 1 || d.MaxInFlight > 100_000 || d.Lanes < 1 || d.Lanes > 1024 || d.StopTimeout <= 0 || d.DeadLetter.Keep <= 0 {
		c.report.Errorf(n, "LS1327", "use positive numbers", "attempts, max_in_flight (at most 100000), lanes (at most 1024), stop_timeout and dead_letter.keep must be positive")
	}
	c.checkQueue(d, n)
	c.checkTransaction()
	c.plan.Guarantee = c.guarantee()
	switch d.Guarantee {
	case "", "at-most-once", c.plan.Guarantee.Level:
	case "at-least-once", effectivelyOnce:
		if c.plan.Guarantee.Level == effectivelyOnce {
			return
		}
		c.report.Errorf(n.Get("guarantee"), "LS1328", "assert "+c.plan.Guarantee.Level+", or change what it names",
			"the pipeline gives only %s: %s", c.plan.Guarantee.Level, c.plan.Guarantee.Because)
	default:
		c.report.Errorf(n.Get("guarantee"), "LS1327", config.Suggest(d.Guarantee, []string{"at-most-once", "at-least-once", effectivelyOnce}), "there is no guarantee of this name")
	}
}

// The values of delivery.on_damage.
const (
	damageServe = "serve_rest"
	damageHold  = "hold"
)

// checkQueue refuses what the queue engine cannot do.
func (c *planner) checkQueue(d *Delivery, n config.Node) {
	if d.Dedup < 0 || d.Keep < 0 {
		c.report.Errorf(n, "LS1327", "use positive numbers", "dedup and keep must not be negative")
	}
	if d.OnDamage != "" && d.OnDamage != damageServe && d.OnDamage != damageHold {
		c.report.Errorf(n.Get("on_damage"), "LS1327", config.Suggest(d.OnDamage, []string{damageServe, damageHold}), "on_damage is serve_rest or hold")
	}
	if d.Queue != "" && d.Queue != queueNone {
		c.report.Errorf(n.Get("queue"), "LS1327", "remove it, or write none", "queue is none, or left out")
	}
	can := c.reg.Queue
	if d.Queue == queueNone {
		can = queue.Caps{Name: queueNone}
	}
	for _, need := range []struct {
		key       string
		needs, is bool
	}{
		{"priority", d.Priority, can.Priority},
		{"dedup", d.Dedup > 0, can.Dedup},
		{"keep", d.Keep > 0, can.Seek},
		{"on_damage", d.OnDamage != "", d.Queue != queueNone},
	} {
		if need.needs && !need.is {
			c.report.Errorf(n.Get(need.key), "LS1333", "remove it, or use another queue engine", "the queue (%s) cannot do this", can.Name)
		}
	}
}

// effectivelyOnce is the guarantee of a transaction: what comes again was not there.
const effectivelyOnce = "effectively-once"

// transacts reports whether some end takes part in a transaction, and whether all do that
// must.
func (c *planner) transacts() (some, all bool) {
	all = len(c.plan.Sources) == 1 && c.plan.Delivery.Queue == queueNone
	for _, s := range c.plan.Sources {
		some, all = some || s.Traits.Transacts, all && s.Traits.Transacts
	}
	for _, s := range c.plan.Sinks {
		some, all = some || s.Traits.Transacts, all && s.Traits.Transacts
	}
	return some, all
}

// checkTransaction refuses half a transaction, which would look like a whole one.
func (c *planner) checkTransaction() {
	if some, all := c.transacts(); some && !all {
		c.report.Errorf(c.root, "LS1335", "give the only input a transactional_id, write `transactional: true` at all outputs, and `delivery: {queue: none}`",
			"a transaction needs one input with a transactional_id, outputs that are all transactional, and no queue between them")
	}
}

// guarantee is the weakest link from the sources through the queue to the sinks.
func (c *planner) guarantee() Guarantee {
	for _, s := range c.plan.Sources {
		if s.Connector != "" && !s.Traits.Redelivers {
			return Guarantee{"at-most-once", fmt.Sprintf("in.%s (%s) does not send again what was not acknowledged", s.Name, s.Connector)}
		}
	}
	if !c.reg.Queue.Durable && c.plan.Delivery.Queue != queueNone {
		return Guarantee{"at-most-once", fmt.Sprintf("the queue (%s) does not survive the process", c.reg.Queue.Name)}
	}
	for _, s := range c.plan.Sinks {
		if s.Connector != "" && !s.Traits.Confirms {
			return Guarantee{"at-most-once", fmt.Sprintf("out.%s (%s) does not confirm", s.Name, s.Connector)}
		}
	}
	if _, all := c.transacts(); all {
		return Guarantee{effectivelyOnce, "what is read and what is written are committed together; readers need isolation: read_committed, and dead letters may be there twice"}
	}
	if c.plan.Delivery.Queue == queueNone {
		return Guarantee{"at-least-once", "without a queue, what was delivered and not acknowledged upstream comes again after a crash or a stop"}
	}
	return Guarantee{"at-least-once", fmt.Sprintf("after a crash up to %d messages that were delivered and not settled come again", c.plan.Delivery.MaxInFlight)}
}
