// Package mqtt connects linkspan to MQTT 5, 3.1.1 and (listening only) 3.1.
//
// Delivery. A message is acknowledged (PUBACK, PUBREC) strictly after it was handed
// on, so QoS 1 delivers at least once. QoS 2 is delivered once while the process
// lives: the packet identifiers of a session are kept in memory, across connections,
// until the sender releases them; after a crash a message may be handed on twice. QoS
// 0 is handed on, and lost when that fails. A sink has delivered a message when the
// broker acknowledged it; with QoS 0, when it was written.
//
// Order. A connection's messages are handed on in the order of their arrival, one
// batch at a time, and acknowledged in that order; the next batch gathers meanwhile.
// The key of a message is its client id and topic.
//
// A listener receives only: subscriptions are refused. What it cannot hand on it
// answers with a reason code (MQTT 5: 0x97 no room, 0x83 too large, 0x99 content
// refused) or with the end of the connection, so that the client sends again. A
// client that waits longer for room than its keep-alive is not answered meanwhile.
package mqtt
