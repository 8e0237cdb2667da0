// Command linkspan-full is linkspan with the connectors google_pubsub, kinesis and
// redis_streams.
package main

import (
	"os"

	"github.com/linkspan/linkspan/cmd"
	"github.com/linkspan/linkspan/connectors/cloud"
)

func main() { os.Exit(cmd.Main(cloud.Specs()...)) }
