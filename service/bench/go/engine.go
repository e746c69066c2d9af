package main

import (
	"bytes"
	"container/heap"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// The engine answers POST at once, whole or as a stream, whatever was asked, and GET with a list of its one model. What it
// does is set by POST /bench?tokens=N&pace_us=N&hang=0|1 and answered by GET /bench.
type engine struct {
	poll     *poller
	listener int
	peers    map[int]*peer
	wire     wire
	tokens   int     // of a stream
	pace     int64   // nanoseconds between two tokens; 0: as fast as they are taken
	hang     bool    // accept and read, never answer
	prompts  int     // of the load, not of probes, that met it since the last setting
	late     int     // those that came more than three seconds after the first of them
	since    int64   // when the first of them came
	last     []int64 // when those of the last second came
	most     int     // that came in any one second
	ready    []*peer // streams that are written as fast as they are taken
	spare    []*peer
	due      paced
}

const second = 1_000_000_000 // nanoseconds

const settled = 3_000_000_000 // nanoseconds after which a gateway should know that the engine hangs

var promptMark = []byte("the weather in the mountains") // it is in every prompt of the load, and in no probe

// peer is a connection to the engine.
type peer struct {
	fd      int
	in      []byte
	out     []byte // not taken yet by the socket
	left    int    // pieces of the stream still to be written, the end among them
	at      int64  // when the next one is due
	closing bool
	closed  bool
	writing bool // waits until the socket takes more
}

type paced []*peer

func (p paced) Len() int           { return len(p) }
func (p paced) Less(a, b int) bool { return p[a].at < p[b].at }
func (p paced) Swap(a, b int)      { p[a], p[b] = p[b], p[a] }
func (p *paced) Push(x any)        { *p = append(*p, x.(*peer)) }
func (p *paced) Pop() any {
	last := len(*p) - 1
	x := (*p)[last]
	*p = (*p)[:last]
	return x
}

func engineMain(arguments []string) {
	flags := flag.NewFlagSet("engine", flag.ExitOnError)
	port := flags.Int("port", 0, "port on 127.0.0.1")
	dialect := flags.String("dialect", "openai", "openai, ollama or mlx")
	_ = flags.Parse(arguments)
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-quit; os.Exit(0) }()

	e := &engine{poll: newPoller(), peers: map[int]*peer{}, wire: wireOf(*dialect), tokens: 100}
	e.listen(*port)
	var buffer [65536]byte
	for {
		for _, event := range e.poll.wait(e.patience()) {
			if int(event.Fd) == e.listener {
				e.accept()
			} else if p := e.peers[int(event.Fd)]; p != nil {
				e.serve(p, event.Events, buffer[:])
			}
		}
		e.produce()
	}
}

func (e *engine) listen(port int) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = syscall.Listen(fd, 4096)
	}
	if err != nil {
		fail("port %d: %v", port, err)
	}
	e.listener = fd
	e.poll.watch(fd, syscall.EPOLLIN, false)
}

func (e *engine) accept() {
	for {
		fd, _, err := syscall.Accept4(e.listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		noDelay(fd)
		e.peers[fd] = &peer{fd: fd}
		e.poll.watch(fd, syscall.EPOLLIN, false)
	}
}

// patience is how long the engine may sleep, in nanoseconds; below zero: until something arrives.
func (e *engine) patience() int64 {
	if len(e.ready) > 0 {
		return 0
	}
	if len(e.due) > 0 {
		return max(0, e.due[0].at-now())
	}
	return -1
}

func (e *engine) serve(p *peer, events uint32, buffer []byte) {
	if events&syscall.EPOLLOUT != 0 {
		e.send(p, nil)
	}
	if events&(syscall.EPOLLIN|syscall.EPOLLHUP|syscall.EPOLLERR) == 0 || p.closed {
		return
	}
	count := read(p.fd, buffer)
	if count == 0 {
		e.close(p)
	}
	if count <= 0 {
		return
	}
	p.in = append(p.in, buffer[:count]...)
	for !p.closed {
		head, body, size := request(p.in)
		if size == 0 {
			return
		}
		e.answer(p, head, body)
		p.in = p.in[:copy(p.in, p.in[size:])]
	}
}

// request finds the first whole request of what has arrived; its size is 0 as long as there is none.
func request(data []byte) (head, body []byte, size int) {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, nil, 0
	}
	head = data[:end+2]
	end += 4
	if value := field(head, "content-length"); value != nil {
		length, _ := strconv.Atoi(string(value))
		if len(data) < end+length {
			return nil, nil, 0
		}
		return head, data[end : end+length], end + length
	}
	if field(head, "transfer-encoding") != nil {
		last := bytes.Index(data[end:], []byte("0\r\n\r\n"))
		if last < 0 {
			return nil, nil, 0
		}
		return head, data[end : end+last], end + last + 5
	}
	return head, nil, end
}

// field returns the value of a header field, nil where there is none.
func field(head []byte, name string) []byte {
	for at := bytes.IndexByte(head, '\n') + 1; at > 0 && at < len(head); {
		line := head[at:]
		next := bytes.IndexByte(line, '\n')
		if next >= 0 {
			line = line[:next]
		}
		if len(line) > len(name) && line[len(name)] == ':' && strings.EqualFold(string(line[:len(name)]), name) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
		if next < 0 {
			break
		}
		at += next + 1
	}
	return nil
}

func (e *engine) answer(p *peer, head, body []byte) {
	target := ""
	if words := bytes.SplitN(head, []byte(" "), 3); len(words) == 3 {
		target = string(words[1])
	}
	path, query, _ := strings.Cut(target, "?")
	if path == "/bench" {
		e.set(query)
		e.send(p, plain(fmt.Sprintf(`{"prompts":%d,"late":%d,"most":%d}`, e.prompts, e.late, e.most)))
		return
	}
	if bytes.Contains(body, promptMark) {
		e.count(now())
	}
	if e.hang {
		return
	}
	if !bytes.HasPrefix(head, []byte("POST")) {
		e.send(p, plain(about(path)))
		return
	}
	p.closing = e.wire.closes
	if !e.wire.streams(body) {
		e.send(p, e.wire.whole)
		return
	}
	p.left = e.tokens + 1
	e.schedule(p, now())
	e.send(p, e.wire.head)
}

// set takes new settings; the count of prompts begins anew with them.
func (e *engine) set(query string) {
	values, _ := url.ParseQuery(query)
	number := func(name string, otherwise int) int {
		if value, err := strconv.Atoi(values.Get(name)); err == nil {
			e.prompts, e.late, e.most, e.last = 0, 0, 0, nil
			return value
		}
		return otherwise
	}
	e.tokens = number("tokens", e.tokens)
	e.pace = int64(number("pace_us", int(e.pace/1000))) * 1000
	hang := 0
	if e.hang {
		hang = 1
	}
	e.hang = number("hang", hang) == 1
}

func (e *engine) count(at int64) {
	if e.prompts++; e.prompts == 1 {
		e.since = at
	}
	if at > e.since+settled {
		e.late++
	}
	for len(e.last) > 0 && at-e.last[0] >= second {
		e.last = e.last[1:]
	}
	e.last = append(e.last, at)
	e.most = max(e.most, len(e.last))
}

func (e *engine) schedule(p *peer, at int64) {
	if e.pace == 0 {
		e.ready = append(e.ready, p)
		return
	}
	p.at = at
	heap.Push(&e.due, p)
}

// produce writes the next piece of every stream that is due.
func (e *engine) produce() {
	turn := e.ready
	e.ready, e.spare = e.spare[:0], turn
	for _, p := range turn {
		if e.piece(p) {
			e.ready = append(e.ready, p)
		}
	}
	for len(e.due) > 0 && e.due[0].at <= now() {
		p := heap.Pop(&e.due).(*peer)
		if e.piece(p) {
			p.at += e.pace
			heap.Push(&e.due, p)
		}
	}
}

// piece writes one piece of a stream and says whether there are more; the last is its end.
func (e *engine) piece(p *peer) bool {
	if p.closed {
		return false
	}
	if p.writing {
		return true // the reader is slow: the same piece at the next turn
	}
	p.left--
	if p.left > 0 {
		e.send(p, e.wire.token(now()))
		return true
	}
	e.send(p, e.wire.end)
	return false
}

// send writes data behind what is still to be written, and closes the connection if that was its last.
func (e *engine) send(p *peer, data []byte) {
	if len(p.out) > 0 {
		p.out = append(p.out, data...)
		data = p.out
	}
	if len(data) > 0 {
		count := write(p.fd, data)
		if count < 0 {
			e.close(p)
			return
		}
		p.out = append(p.out[:0], data[count:]...)
	}
	if blocked := len(p.out) > 0; blocked != p.writing {
		p.writing = blocked
		events := uint32(syscall.EPOLLIN)
		if blocked {
			events |= syscall.EPOLLOUT
		}
		e.poll.watch(p.fd, events, true)
	}
	if p.closing && p.left == 0 && !p.writing {
		e.close(p)
	}
}

func (e *engine) close(p *peer) {
	p.closed = true
	delete(e.peers, p.fd)
	_ = syscall.Close(p.fd)
}
