package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strings"
	"syscall"
)

// load sends one prompt again and again. Without a rate each connection sends its next as soon as it has its answer; with a
// rate prompts are sent at their time, whatever has become of the others, on as many connections as that takes.
type load struct {
	poll     *poller
	address  syscall.SockaddrInet4
	request  []byte
	stream   bool
	tokens   int // that each stream must have
	requests int // to be sent; 0: until the time is over
	sent     int
	open     int // prompts without answer
	clients  map[int]*client
	idle     []*client
	results
}

type results struct {
	answered int
	faults   map[string]int
	tokens   int
	latency  histogram // from the prompt to the end of its answer
	first    histogram // from the prompt to the first token
	delay    histogram // of a token, from its writing to its arrival
}

// client is a connection of the load.
type client struct {
	fd      int
	reply   reply
	busy    bool
	started int64
}

// fields collects what a repeated option gives.
type fields []string

func (f *fields) String() string { return strings.Join(*f, ", ") }

// Set adds one value.
func (f *fields) Set(value string) error {
	*f = append(*f, value)
	return nil
}

func loadMain(arguments []string) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	target := flags.String("url", "", "http://127.0.0.1:PORT/PATH")
	body := flags.String("body", "", "file with the prompt")
	var headers fields
	flags.Var(&headers, "header", "NAME: VALUE, any number of times")
	connections := flags.Int("connections", 64, "how many at once, without a rate")
	seconds := flags.Float64("seconds", 5, "how long prompts are sent")
	requests := flags.Int("requests", 0, "how many prompts are sent at most; 0: any number")
	rate := flags.Float64("rate", 0, "prompts a second; 0: one after the other on each connection")
	ramp := flags.Float64("ramp", 0, "seconds over which connections begin")
	tokens := flags.Int("tokens", 0, "tokens that each answer must have, as a stream; 0: answers are whole")
	patience := flags.Float64("patience", 120, "seconds to wait for the last answers")
	_ = flags.Parse(arguments)

	l := &load{poll: newPoller(), tokens: *tokens, stream: *tokens > 0, requests: *requests, clients: map[int]*client{}}
	l.faults = map[string]int{}
	l.prepare(*target, *body, headers)
	began := now()
	end := began + int64(*seconds*1e9)
	if *rate > 0 {
		l.paced(*rate, end)
	} else {
		l.closed(*connections, int64(*ramp*1e9), end)
	}
	l.finish(now() + int64(*patience*1e9))
	l.report(float64(now()-began) / 1e9)
}

func (l *load) prepare(target, file string, headers fields) {
	to, err := url.Parse(target)
	if err != nil || to.Hostname() != "127.0.0.1" {
		fail("%q is no URL on 127.0.0.1", target)
	}
	l.address.Addr = [4]byte{127, 0, 0, 1}
	if _, err := fmt.Sscan(to.Port(), &l.address.Port); err != nil {
		fail("%q has no port", target)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		fail("%v", err)
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n",
		to.Path, to.Host, len(body))
	for _, header := range headers {
		head += header + "\r\n"
	}
	l.request = append([]byte(head+"\r\n"), body...)
}

// closed keeps a number of connections busy.
func (l *load) closed(connections int, ramp, end int64) {
	began := now()
	begun := 0
	for {
		at := now()
		if at >= end || l.exhausted() {
			return
		}
		for begun < connections && !l.exhausted() && at >= began+ramp*int64(begun)/int64(connections) {
			l.send(l.dial())
			begun++
		}
		for len(l.idle) > 0 && !l.exhausted() {
			l.send(l.rested())
		}
		for lost := begun - len(l.clients); lost > 0 && !l.exhausted(); lost-- {
			l.send(l.dial()) // in place of one that the other side closed
		}
		next := end
		if begun < connections {
			next = began + ramp*int64(begun)/int64(connections)
		}
		l.turn(next)
	}
}

// paced sends prompts at their time.
func (l *load) paced(rate float64, end int64) {
	began := now()
	for {
		next := began + int64(float64(l.sent)/rate*1e9)
		at := now()
		if at >= end || l.exhausted() {
			return
		}
		if at < next {
			l.turn(min(next, end))
			continue
		}
		if len(l.idle) > 0 {
			l.send(l.rested())
		} else {
			l.send(l.dial())
		}
	}
}

func (l *load) exhausted() bool { return l.requests > 0 && l.sent >= l.requests }

// finish waits for the answers that are missing, up to a time.
func (l *load) finish(until int64) {
	for l.open > 0 && now() < until {
		l.turn(until)
	}
	if l.open > 0 {
		l.faults["no answer"] += l.open
	}
}

// rested returns an idle connection that is still open, or a new one.
func (l *load) rested() *client {
	c := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	if c.fd < 0 {
		return l.dial()
	}
	return c
}

func (l *load) dial() *client {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = syscall.Connect(fd, &l.address)
	}
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		fail("port %d: %v", l.address.Port, err)
	}
	noDelay(fd)
	c := &client{fd: fd}
	c.reply.delay = &l.delay
	l.clients[fd] = c
	l.poll.watch(fd, syscall.EPOLLIN, false)
	return c
}

func (l *load) send(c *client) {
	c.reply.begin()
	c.busy = true
	c.started = now()
	l.sent++
	l.open++
	if write(c.fd, l.request) != len(l.request) {
		l.lost(c, "prompt not taken")
	}
}

var buffer [1 << 18]byte

// turn reads what has arrived, at the latest at a certain time.
func (l *load) turn(until int64) {
	for _, event := range l.poll.wait(max(0, until-now())) {
		c := l.clients[int(event.Fd)]
		if c == nil {
			continue
		}
		count := read(c.fd, buffer[:])
		if count < 0 {
			continue
		}
		if count == 0 {
			l.left(c)
			continue
		}
		at := now()
		c.reply.take(buffer[:count], at)
		switch {
		case c.reply.fault != "":
			l.lost(c, c.reply.fault)
		case c.reply.phase == done:
			l.answer(c, at)
		}
	}
}

// left deals with a connection that the other side closed: the end of an answer without length, or a loss.
func (l *load) left(c *client) {
	switch {
	case !c.busy:
		l.drop(c)
	case c.reply.phase == toEnd:
		l.answer(c, now())
		l.drop(c)
	default:
		l.lost(c, "connection closed before the end of the answer")
	}
}

func (l *load) answer(c *client, at int64) {
	if !c.busy {
		l.lost(c, "an answer without prompt")
		return
	}
	c.busy = false
	l.open--
	r := &c.reply
	switch {
	case r.status != 200:
		l.faults[fmt.Sprintf("status %d", r.status)]++
	case l.stream && r.tokens != l.tokens:
		l.faults[fmt.Sprintf("%d tokens", r.tokens)]++
	case l.stream && !r.ended:
		l.faults["no end mark"]++
	default:
		l.answered++
		l.latency.add(at - c.started)
	}
	l.results.tokens += r.tokens
	if r.first > 0 {
		l.results.first.add(r.first - c.started)
	}
	l.idle = append(l.idle, c)
}

func (l *load) lost(c *client, why string) {
	l.faults[why]++
	if c.busy {
		l.open--
		c.busy = false
	}
	l.drop(c)
}

func (l *load) drop(c *client) {
	if c.fd >= 0 {
		delete(l.clients, c.fd)
		_ = syscall.Close(c.fd)
		c.fd = -1
	}
}

func (l *load) report(seconds float64) {
	result := map[string]any{"sent": l.sent, "answered": l.answered, "faults": l.faults, "seconds": seconds,
		"latency_ms": l.latency.figures()}
	if l.stream {
		result["tokens"] = l.results.tokens
		result["first_ms"] = l.results.first.figures()
		result["delay_ms"] = l.delay.figures()
	}
	line, err := json.Marshal(result)
	if err != nil {
		fail("%v", err)
	}
	fmt.Println(strings.TrimSpace(string(line)))
}
