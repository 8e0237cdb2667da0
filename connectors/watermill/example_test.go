package watermill_test

import (
	"fmt"
	"os"

	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/linkspan/linkspan/cmd"
	"github.com/linkspan/linkspan/connectors/watermill"
)

const pipeline = `pipeline: bridge
in:
  shop:
    nats: {topic: orders}
out:
  copies:
    nats: {topic: copies}
`

// A program has a Subscriber and a Publisher of Watermill, here Go channels, and is
// linkspan with one line.
func Example() {
	_ = os.WriteFile("bridge.yaml", []byte(pipeline), 0o600)
	defer os.Remove("bridge.yaml")
	os.Args = []string{"linkspan", "check", "bridge.yaml"} // the user's, otherwise

	pubsub := gochannel.NewGoChannel(gochannel.Config{}, nil)
	code := cmd.Main(watermill.Of("nats", pubsub, pubsub))

	fmt.Println("exit code", code)
	// Output:
	// bridge.yaml: pipeline bridge: at-least-once (after a crash up to 256 messages that were delivered and not settled come again)
	// 1 pipelines compiled, 0 errors, 0 warnings
	// exit code 0
}
