package file

import (
	"time"

	"github.com/linkspan/linkspan/connectors/internal/lines"
	"github.com/linkspan/linkspan/message"
)

// gather fills the batch with the next records.
func (s *source) gather(last bool) error {
	clear(s.batch.Messages)
	s.batch.Messages, s.after, s.arena = s.batch.Messages[:0], s.after[:0], s.arena[:0]
	now := time.Now()
	for s.batch.Len() < lines.BatchSize {
		record, ok, err := s.cut.Next()
		if err != nil {
			if s.batch.Len() > 0 {
				return nil // first what stands before it
			}
			return err
		}
		if !ok && last {
			record, ok = s.cut.Rest()
		}
		if !ok {
			return nil
		}
		if err := s.add(record, now); err != nil {
			return err
		}
	}
	return nil
}

// add makes a message of a record, unless it carries none.
func (s *source) add(record []byte, now time.Time) error {
	m := message.Message{
		Key: s.key, Topic: s.cfg.Path, Time: now, ContentType: "application/json",
		Priority: message.NormalPriority, Source: s.env.Name, Attempt: 1, Payload: record,
	}
	switch s.cfg.Format {
	case formatLines:
		m.ContentType = "text/plain"
	case formatNDJSON:
		if len(record) == 0 {
			return nil
		}
	default:
		if len(record) == 0 {
			return nil
		}
		if isHeader, err := s.columns(record); err != nil || isHeader {
			return err
		}
		s.object(&m, record)
	}
	s.batch.Messages = append(s.batch.Messages, m)
	s.after = append(s.after, s.cut.Offset())
	return nil
}

// columns makes sure that the columns are known. IsHeader: this record named them.
func (s *source) columns(record []byte) (isHeader bool, err error) {
	switch {
	case s.table != nil:
		return false, nil
	case len(s.cfg.Columns) > 0:
		s.table, err = newTable(s.cfg.Delimiter, s.cfg.Columns)
		return false, err
	default:
		s.table, err = header(record, s.cfg.Delimiter)
		return true, err
	}
}

// object replaces the payload by a JSON object. A row that does not fit goes on as
// it is and says so.
func (s *source) object(m *message.Message, record []byte) {
	at := len(s.arena)
	arena, err := s.table.object(s.arena, record)
	if err != nil {
		m.ContentType = "text/csv"
		m.Headers = message.Headers{{Name: headerError, Value: message.String("LS4303")}}
		return
	}
	s.arena = arena
	m.Payload = arena[at:len(arena):len(arena)]
}
