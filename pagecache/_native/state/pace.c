/*
 * pace.c - how many bytes in flight keep the line to a store busy, measured by the reads of a volume.
 *
 *   in flight    |== request ==|== request ==|= ...      window: 2.5 times what the line delivers during a call
 *   drained      |== request ==|                         now and then: one alone, whose duration is that of the line
 *
 * The rate is what all calls delivered in the last spans of time as long as a call. A span in which less was in flight than
 * the window asks for does not lower it: its reader waited for nothing. A call beside which no other ran measures the
 * duration, and any shorter one lowers it. While the rate grows the window is four times the product.
 *
 * A request has two thirds of the product, so that latency is a third of a call, or what the line carries in a quarter
 * of a second: fewer calls deliver as much. Where each has a limit of its own they become as large as the store allows.
 *
 * While the rate grows, twice as many run as make it up at the rate of one, which is what a call longer than the shortest
 * one takes longer: two on a line that calls share, more and more where each has a limit of its own. There the rate is
 * also what the calls side by side deliver during one, which is known before a span ends.
 *
 * A long read runs as so many calls side by side as calls alone make up the rate, and as one on a drained line.
 *
 * Context: GIL; the results are read without.
 */
#include "state/state.h"

enum { LEAST = 1 << 20, FLAT = 3 };
static const u64 SPAN_NS = 20000000, SECOND_NS = 1000000000, PERIOD_NS = 10000000000;

static u64 rate_of(const struct pc_pace *p)
{
	return p->flat < FLAT ? pc_max(p->rates[0], p->rates[1]) : p->rates[0] / 2 + p->rates[1] / 2;
}

static u64 product(const struct pc_pace *p)
{
	return (u64)((double)rate_of(p) * (double)p->call_ns / 1e9);
}

static void set_results(struct pc_pace *p)
{
	u64 bytes = product(p), rate = rate_of(p);
	bool grows = p->flat < FLAT;
	u64 window = bytes / 2 * (grows ? 8 : 5);
	u64 most = pc_max((grows ? 4 : 2) * rate, LEAST); /* a slow line delivers in two seconds */
	u64 beside = pc_max((bytes + p->call_len / 2) / pc_max(p->call_len, 1), 1);
	u64 request = pc_max(bytes / 3 * 2, rate / 4);
	if (grows)
		beside = 2 * pc_max(p->each ? (rate + p->each / 2) / p->each : beside, 1);
	if (grows && p->each) {
		u64 pipe = (u64)((double)p->each * (double)p->least_ns / 1e9);
		pipe -= pc_min(pipe, p->least_len);
		request = pc_min(pc_max(pc_max(window / beside, 2 * pipe), rate / 32), window / 2);
	} else if (grows) {
		request = pc_max(window / 2, rate / 8);
		window = pc_max(window, 2 * request);
	}
	request = pc_min(pc_max(request, LEAST), most / 4);
	window = p->drains_ns ? 0 : window;
	atomic_store_explicit(&p->window, pc_min(pc_max(window, LEAST), most), memory_order_relaxed);
	atomic_store_explicit(&p->request, request, memory_order_relaxed);
	atomic_store_explicit(&p->part, grows ? 0 : request, memory_order_relaxed);
	atomic_store_explicit(&p->beside, p->drains_ns ? 1 : beside, memory_order_relaxed);
}

static void drain(struct pc_pace *p, u64 now)
{
	if (!p->drains_ns) {
		p->drains_ns = now;
		p->shortest_ns = 0;
		set_results(p);
	}
}

/* A read of `len` bytes begins. Return: what its end reports. */
struct pc_pace_call pc_pace_begin(struct pc_volume *v, u64 len, u64 now)
{
	struct pc_pace *p = &v->pace;
	u64 bytes = product(p), budget = atomic_load(&v->cache->arena.capacity) / 8 << v->cache->page_shift;
	if (!p->flying && now - p->ended_ns > SPAN_NS) {
		p->span_ns = now;
		p->span_delivered = p->delivered;
	}
	p->flying += len;
	p->running++;
	p->calls++;
	if (p->flying > len)
		p->crowded = p->calls;
	p->idle |= p->flying < pc_min(pc_min(bytes, budget), len * v->max_inflight) / 4;
	if (bytes && now - p->drained_ns > pc_max(PERIOD_NS, 60 * p->call_ns))
		drain(p, now);
	return (struct pc_pace_call){len, p->calls, p->flying, p->running};
}

/* Measure the rate at the end of a span, and count the spans in which it has not grown. */
static void add_rate(struct pc_pace *p, u64 call_ns, u64 now)
{
	u64 ns = now - p->span_ns;
	p->longest_ns = pc_max(p->longest_ns, call_ns);
	if (ns < pc_max(SPAN_NS, pc_min(pc_max(p->call_ns, p->longest_ns), SECOND_NS)))
		return;
	u64 over = pc_max(ns, pc_min(p->longest_ns, PERIOD_NS)); /* long calls that began together end together */
	u64 rate = (u64)((double)(p->delivered - p->span_delivered) * 1e9 / (double)over);
	p->longest_ns = 0;
	bool counts = !p->idle || rate > p->rates[0] || ns > SECOND_NS;
	p->span_ns = now;
	p->span_delivered = p->delivered;
	p->idle = p->drains_ns;
	if (!counts)
		return;
	p->rates[1] = ns > SECOND_NS ? rate : p->rates[0];
	p->rates[0] = rate;
	rate = rate_of(p);
	bool grew = p->flat < FLAT ? rate > p->grown / 4 * 5 : pc_min(p->rates[0], p->rates[1]) > p->grown / 2 * 3;
	if (grew || pc_max(p->rates[0], p->rates[1]) < p->grown / 2) {
		p->grown = rate;
		p->flat = 0;
	} else if (p->flat < FLAT && ++p->flat == FLAT) {
		drain(p, now);
	}
}

/* The duration of a call without a queue, of requests of about this size. */
static void add_duration(struct pc_pace *p, const struct pc_pace_call *call, u64 ns, u64 now)
{
	bool alone = p->crowded < call->number, sized = call->len * 2 >= pc_min(p->call_len, p->request);
	bool late = p->drains_ns && now - p->drains_ns > 4 * p->call_ns + SPAN_NS; /* other streams go on */
	u64 queue_ns = (u64)((double)call->flying * 1e9 / (double)pc_max(rate_of(p), 1));
	if (ns > 3 * pc_max(p->call_ns, queue_ns) && p->call_ns && now - p->drained_ns > 8 * p->call_ns) {
		drain(p, now); /* the line has become slower */
		p->least_ns = p->each = 0;
	}
	if (p->drains_ns && sized)
		p->shortest_ns = p->shortest_ns ? pc_min(p->shortest_ns, ns) : ns;
	if (sized && (alone || (ns < p->call_ns && call->len >= p->call_len))) {
		p->call_ns = ns;
		p->call_len = call->len;
	} else if (call->len / 2 >= p->call_len) { /* at most so many times as long */
		p->call_ns = pc_min(ns, (u64)((double)p->call_ns * (double)call->len / (double)p->call_len));
		if (p->each)
			p->call_ns = pc_min(p->call_ns, p->least_ns + (u64)((double)call->len * 1e9 / (double)p->each));
		p->call_len = call->len;
	} else if (late && p->shortest_ns > 2 * p->call_ns) {
		p->call_ns = p->shortest_ns;
	}
	if (late || (alone && sized)) {
		p->drains_ns = 0;
		p->drained_ns = now;
	}
}

/* The rate of one call, by its length and duration beyond those of the shortest; clocks and threads are late. */
static void add_each(struct pc_pace *p, u64 len, u64 ns)
{
	if (!p->least_ns || ns < p->least_ns) {
		p->least_ns = ns;
		p->least_len = len;
	} else if (len / 2 >= p->least_len && ns > p->least_ns) {
		double each = (double)(len - p->least_len) * 1e9 / (double)(ns - p->least_ns);
		double most = (double)len * 4e9 / (double)ns;
		p->each = pc_max(p->each, (u64)(each < most ? each : most));
	}
}

/* The read has ended after `ns`; 0: it failed, or its end is unknown. */
void pc_pace_end(struct pc_volume *v, const struct pc_pace_call *call, u64 ns, u64 now)
{
	struct pc_pace *p = &v->pace;
	u64 beside = pc_min(call->beside, p->running);
	p->flying -= pc_min(call->len, p->flying);
	p->running -= pc_min(1, p->running);
	if (!ns || !call->len)
		return;
	p->delivered += call->len;
	p->ended_ns = now;
	if (p->flat < FLAT)
		p->rates[0] = pc_max((u64)((double)call->len * (double)beside * 1e9 / (double)ns), p->rates[0]);
	add_each(p, call->len, ns);
	add_duration(p, call, ns, now);
	add_rate(p, ns, now);
	set_results(p);
}

/* Bytes that the streams of this volume want in flight. */
u64 pc_pace_window(struct pc_volume *v)
{
	return pc_max(atomic_load_explicit(&v->pace.window, memory_order_relaxed), LEAST);
}
