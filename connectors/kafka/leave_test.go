package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/linkspan/linkspan/message"
)

// TestStopWhileJoining: after a crash the group waits for the member that has crashed,
// and a new one cannot join before that. A stop must not wait as long, and must leave
// nothing in the group that the next start has to wait for.
func TestStopWhileJoining(t *testing.T) {
	cluster := startCluster(t)
	cl := newClient(t, cluster.ListenAddrs())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	crashed := joinRaw(ctx, t, cl, "g")
	describe := func() kmsg.DescribeGroupsResponseGroup {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{"g"}
		resp, err := req.RequestWith(ctx, cl)
		if err != nil || len(resp.Groups) != 1 {
			t.Fatalf("describe: %v", err)
		}
		return resp.Groups[0]
	}

	src := newTestSource(t, testEnv(t), cluster.ListenAddrs(), func(c *SourceConfig) { c.Group = "g" })
	stop := startSource(t, src, message.HandlerFunc(func(context.Context, *message.Batch) error { return nil }))
	eventually(t, "the group waits for the crashed member", func() bool { return describe().State == "PreparingRebalance" })

	before := time.Now()
	stop()
	if took := time.Since(before); took > 4*byeWithin {
		t.Errorf("the stop took %s, while the group waited for another member", took)
	}
	eventually(t, "the source has left", func() bool { return len(describe().Members) <= 1 })
	for _, m := range describe().Members {
		if m.MemberID != crashed {
			t.Errorf("the source is still a member of the group")
		}
	}
}

// joinRaw joins a group, and is silent from then on.
func joinRaw(ctx context.Context, t *testing.T, cl *kgo.Client, group string) (member string) {
	t.Helper()
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.ProtocolType = group, "consumer"
	join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 60_000, 60_000
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name = "cooperative-sticky"
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Topics = []string{"orders"}
	protocol.Metadata = meta.AppendTo(nil)
	join.Protocols = append(join.Protocols, protocol)
	resp, err := join.RequestWith(ctx, cl)
	if err == nil && resp.ErrorCode == kerr.MemberIDRequired.Code {
		join.MemberID = resp.MemberID
		resp, err = join.RequestWith(ctx, cl)
	}
	if err != nil || resp.ErrorCode != 0 {
		t.Fatalf("join: %v, %v", err, resp)
	}
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.MemberID, sync.Generation = group, resp.MemberID, resp.Generation
	sync.ProtocolType, sync.Protocol = &join.ProtocolType, &protocol.Name
	if got, err := sync.RequestWith(ctx, cl); err != nil || got.ErrorCode != 0 {
		t.Fatalf("sync: %v, %v", err, got)
	}
	return resp.MemberID
}
