// Package all lists the connectors that linkspan is built with. A connector that is
// not here is not in the program.
package all

import (
	"github.com/linkspan/linkspan/connectors"
	"github.com/linkspan/linkspan/connectors/amqp091"
	"github.com/linkspan/linkspan/connectors/amqp1"
	"github.com/linkspan/linkspan/connectors/file"
	"github.com/linkspan/linkspan/connectors/generate"
	"github.com/linkspan/linkspan/connectors/http"
	"github.com/linkspan/linkspan/connectors/kafka"
	"github.com/linkspan/linkspan/connectors/mqtt"
	"github.com/linkspan/linkspan/connectors/stdio"
	"github.com/linkspan/linkspan/connectors/stomp"
)

// Specs returns all connectors, ordered by name.
func Specs() []connectors.Spec {
	return []connectors.Spec{
		amqp091.Spec(),
		amqp1.Spec(),
		file.Spec(),
		generate.Spec(),
		http.Spec(),
		kafka.Spec(),
		mqtt.Spec(),
		stdio.Spec(),
		stomp.Spec(),
	}
}
