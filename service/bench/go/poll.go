package main

import (
	"syscall"
	"time"
	"unsafe"
)

const epollPwait2 = 441 // the number of the system call: the same on every architecture

// poller waits for sockets, with a limit of time finer than a millisecond.
type poller struct {
	fd     int
	events [512]syscall.EpollEvent
}

func newPoller() *poller {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		fail("epoll: %v", err)
	}
	return &poller{fd: fd}
}

// watch says which events of a socket count from now on.
func (p *poller) watch(fd int, events uint32, known bool) {
	operation := syscall.EPOLL_CTL_ADD
	if known {
		operation = syscall.EPOLL_CTL_MOD
	}
	if err := syscall.EpollCtl(p.fd, operation, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		fail("epoll: %v", err)
	}
}

// wait returns what happened, at the latest after `nanoseconds`; below zero: whenever something happens.
func (p *poller) wait(nanoseconds int64) []syscall.EpollEvent {
	var limit *syscall.Timespec
	if nanoseconds >= 0 {
		timespec := syscall.NsecToTimespec(nanoseconds)
		limit = &timespec
	}
	count, _, errno := syscall.Syscall6(epollPwait2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])),
		uintptr(len(p.events)), uintptr(unsafe.Pointer(limit)), 0, 0)
	if errno == syscall.EINTR {
		return nil
	}
	if errno != 0 {
		fail("epoll: %v", errno)
	}
	return p.events[:count]
}

// read takes what a socket has; 0 at its end, below zero if there is nothing yet.
func read(fd int, buffer []byte) int {
	count, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buffer[0])),
		uintptr(len(buffer)))
	switch errno {
	case 0:
		return int(count)
	case syscall.EAGAIN, syscall.EINTR:
		return -1
	}
	return 0 // reset: as good as its end
}

// write gives a socket as much as it takes; below zero if it is closed.
func write(fd int, data []byte) int {
	count, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&data[0])),
		uintptr(len(data)))
	switch errno {
	case 0:
		return int(count)
	case syscall.EAGAIN, syscall.EINTR:
		return 0
	}
	return -1
}

func noDelay(fd int) {
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
}

func now() int64 { return time.Now().UnixNano() }
