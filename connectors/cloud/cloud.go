// Package cloud lists the connectors of linkspan-full, the program that has more of them
// than linkspan. It is a module of its own, so that what they are built from is no part of
// linkspan.
package cloud

import (
	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/cloud/googlepubsub"
	"github.com/linkspan/linkspan/connectors/cloud/kinesis"
	"github.com/linkspan/linkspan/connectors/cloud/redisstreams"
)

// Specs returns the connectors, ordered by name.
func Specs() []connectors.Spec {
	return []connectors.Spec{googlepubsub.Spec(), kinesis.Spec(), redisstreams.Spec()}
}
