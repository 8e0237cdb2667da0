// Package watermill offers a queue engine to Go programs as a Watermill Publisher and
// Subscriber.
//
// It guarantees what the engine does: Publish returns when the messages are stable,
// all messages of one call are one unit, and a message comes again until it is
// acknowledged. Delivery is at least once, not exactly once: an acknowledgement is
// stable with the next commit of the engine, so a crash before it is a redelivery.
//
// A consumer group is a durable subscription of the topic. Each group gets every
// message, and the Subscribe calls of one group compete, whichever Subscriber of the
// process they belong to. A new group begins at the earliest message that the topic
// still holds, which is the first one that was not acknowledged by every other group.
//
// One Subscribe call hands out one message at a time, in the order of the topic, also
// when a message is refused and comes again. That order is the topic's only while a
// group has one Subscribe call and [SubscriberConfig.MaxInFlight] is 1.
//
// A message's UUID is the ID in the queue, its metadata are the headers, and the
// payload is copied both ways. Typed headers of messages that came from elsewhere are
// handed out as text; of a header that repeats, the first counts.
//
// The engine belongs to whoever opened it: Close of a Publisher or a Subscriber leaves
// it open, and it has to be closed after them.
package watermill
