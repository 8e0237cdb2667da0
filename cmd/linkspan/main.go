// Command linkspan is a multi-protocol integration bridge; see the package cmd.
package main

import (
	"os"

	"github.com/linkspan/linkspan/cmd"
)

func main() { os.Exit(cmd.Main()) }
