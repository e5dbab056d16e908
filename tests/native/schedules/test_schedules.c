/*
 * test_schedules.c - runs schedules in search of a violation; replays one, makes it shorter, measures, proves that bugs
 * are found. The end of each checks: I-1 to I-16, I-17, I-18, I-25, I-26, I-27 (world.c, model.h).
 *
 *   schedules --seconds 5                     all kinds of worlds in turn
 *   schedules --kind cuts --number 100000     that many of one kind
 *   schedules --replay cuts:7:1234            one schedule, by its name in a failure's report: again, shortened, printed
 *   schedules --without FIX                   with a fix taken out (in build/planted), with all of the above
 *
 * Schedules run in batches of some thousand, each batch in a child with a new cache: an assertion, a crash, a hang ends
 * the child and not the search. A schedule is named kind:batch:number. The history of a cache before the number-th
 * schedule is part of it, so a replay plays the whole batch up to there, and then forks for each try.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../planted/planted.h"
#include "pagecache.h"
#include "schedule.h"
#include "world.h"

enum { BATCH = 1000, HANG_SECONDS = 60, TRIES = 400 };

/* The outcome of a child, whatever ends it. */
struct outcome {
	uint64_t number, played, steps, switches;
	struct schedule_log log;
};

struct name {
	uint32_t kind;
	uint64_t batch, number;
};

static struct outcome *outcome;

/* CPU time of the children that have ended: the cost of schedules, whatever else the machine does. */
static double cpu_seconds(void)
{
	struct rusage u;
	getrusage(RUSAGE_CHILDREN, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---------------------------------------------------------------- in a child */

static struct schedule_plan plan_of(const struct name *n)
{
	uint64_t seed = n->batch * 1000003 + n->number;
	return (struct schedule_plan){
		.policy = seed % 2 ? SCHEDULE_WALK : SCHEDULE_PCT,
		.seed = seed,
		.changes = 1 + (uint32_t)(seed / 2 % 4),
		.length = 300,
	};
}

static void play(const struct schedule_plan *plan)
{
	schedule_begin(plan, &outcome->log);
	world_play();
	outcome->played++;
	outcome->steps += outcome->log.steps;
	outcome->switches += outcome->log.switches;
}

/* The schedules [0, n->number) of a batch. */
static void play_before(const struct name *n, double until)
{
	struct name k = *n;
	for (k.number = 0; k.number < n->number && (until == 0 || k.number % 64 || seconds() < until); k.number++) {
		struct schedule_plan plan = plan_of(&k);
		outcome->number = k.number;
		play(&plan);
	}
}

static void print_world(int signal)
{
	fprintf(stderr, "%s%sthe schedule, %u choices:\n", outcome->log.reason, signal == SIGALRM ? "a hang\n" : "",
		outcome->log.nr_choices);
	schedule_print(&outcome->log);
	world_print();
	_exit(1);
}

static void be_quiet(void)
{
	if (!freopen("/dev/null", "w", stderr))
		_exit(2);
}

static void begin_child(const char *without, bool quiet)
{
	if (quiet)
		be_quiet();
	else
		signal(SIGABRT, print_world);
	alarm(HANG_SECONDS);
	pc_fix_removed = without;
}

/* Return: whether the child ended as it should. */
static bool ended_well(pid_t child)
{
	int status = 0;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---------------------------------------------------------------- search */

/* One batch. Return: false: the schedule outcome->number has failed. */
static bool run_batch(const struct name *n, const char *without, bool quiet, double until)
{
	outcome->number = 0;
	pid_t child = fork();
	if (child == 0) {
		begin_child(without, quiet);
		world_open(n->kind, n->batch);
		play_before(n, until);
		world_close();
		_exit(0);
	}
	return ended_well(child);
}

/* Return: whether a failure was found; then *found is its name. */
static bool search(uint32_t first, uint32_t end, uint64_t batch, uint64_t number, double until, const char *without,
		   struct name *found)
{
	while (outcome->played < number && seconds() < until) {
		for (uint32_t kind = first; kind < end && outcome->played < number; kind++) {
			uint64_t left = number - outcome->played;
			struct name n = {kind, batch, left < BATCH ? left : BATCH};
			if (!run_batch(&n, without, true, until)) {
				*found = (struct name){kind, batch, outcome->number};
				return true;
			}
		}
		batch++;
	}
	return false;
}

/* ---------------------------------------------------------------- shrinking, replay */

static bool fails(const struct schedule_plan *plan)
{
	pid_t child = fork();
	if (child == 0) {
		be_quiet();
		alarm(HANG_SECONDS);
		play(plan);
		_exit(0);
	}
	return !ended_well(child);
}

/* Leave out choices, halves first, as long as it still fails. */
static uint32_t shrink(const struct schedule_plan *seeded, struct schedule_choice *choices, uint32_t nr)
{
	static struct schedule_choice fewer[SCHEDULE_CHOICES];
	int tries = TRIES;
	for (uint32_t part = (nr + 1) / 2; part && tries > 0; part = part == 1 ? 0 : (part + 1) / 2) {
		for (uint32_t at = 0; at < nr && tries-- > 0;) {
			uint32_t end = at + part < nr ? at + part : nr, left = nr - (end - at);
			memcpy(fewer, choices, at * sizeof(*choices));
			memcpy(fewer + at, choices + end, (nr - end) * sizeof(*choices));
			struct schedule_plan plan = *seeded;
			plan.policy = SCHEDULE_RECORD;
			plan.choices = fewer;
			plan.nr_choices = left;
			if (fails(&plan)) {
				memcpy(choices, fewer, left * sizeof(*choices));
				nr = left;
			} else {
				at = end;
			}
		}
	}
	return nr;
}

/* Return: whether it failed again. The shortest way to it is printed on stderr. */
static bool replay(const struct name *n, const char *without)
{
	static struct schedule_choice choices[SCHEDULE_CHOICES];
	struct schedule_plan plan = plan_of(n);
	fprintf(stderr, "--replay %s:%" PRIu64 ":%" PRIu64 "\n", world_kind(n->kind), n->batch, n->number);
	fflush(stderr);
	pid_t child = fork();
	if (child == 0) {
		pc_fix_removed = without;
		alarm(10 * HANG_SECONDS);
		world_open(n->kind, n->batch);
		play_before(n, 0);
		if (!fails(&plan))
			_exit(0);
		uint32_t all = outcome->log.nr_choices;
		memcpy(choices, outcome->log.choices, all * sizeof(*choices));
		struct schedule_plan record = plan;
		record.policy = SCHEDULE_RECORD;
		record.choices = choices;
		record.nr_choices = all;
		if (fails(&record)) /* else it depends on something outside the choices: printed as recorded */
			record.nr_choices = shrink(&plan, choices, all);
		else
			record = plan;
		fprintf(stderr, "%u choices, %u of them needed\n", all, record.nr_choices);
		signal(SIGABRT, print_world);
		signal(SIGSEGV, print_world);
		signal(SIGALRM, print_world);
		play(&record);
		_exit(0);
	}
	return !ended_well(child);
}

/* ---------------------------------------------------------------- */

static uint32_t kind_named(const char *name, size_t len)
{
	for (uint32_t k = 0; k < WORLD_KINDS; k++)
		if (strlen(world_kind(k)) == len && strncmp(world_kind(k), name, len) == 0)
			return k;
	fprintf(stderr, "no kind %.*s\n", (int)len, name);
	exit(2);
}

struct options {
	uint64_t seed, number;
	double seconds;
	const char *kind, *without, *replay;
};

static struct options parse(int argc, char **argv)
{
	static const struct option names[] = {
		{"seed", 1, NULL, 's'},    {"number", 1, NULL, 'n'}, {"seconds", 1, NULL, 't'}, {"kind", 1, NULL, 'k'},
		{"without", 1, NULL, 'w'}, {"replay", 1, NULL, 'r'}, {NULL, 0, NULL, 0}};
	struct options o = {.seed = (uint64_t)time(NULL) % 1000000, .number = UINT64_MAX, .seconds = 1e9};
	for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		switch (c) {
		case 's': o.seed = strtoull(optarg, NULL, 10); break;
		case 'n': o.number = strtoull(optarg, NULL, 10); break;
		case 't': o.seconds = strtod(optarg, NULL); break;
		case 'k': o.kind = optarg; break;
		case 'w': o.without = optarg; break;
		case 'r': o.replay = optarg; break;
		default: exit(2);
		}
	}
	return o;
}

static struct name name_of(const char *text)
{
	const char *colon = strchr(text, ':');
	struct name n = {0};
	if (!colon || sscanf(colon, ":%" SCNu64 ":%" SCNu64, &n.batch, &n.number) != 2) {
		fprintf(stderr, "schedules: a schedule is kind:batch:number\n");
		exit(2);
	}
	n.kind = kind_named(text, (size_t)(colon - text));
	return n;
}

int main(int argc, char **argv)
{
	struct options o = parse(argc, argv);
	struct name n;
	uint32_t first = o.kind ? kind_named(o.kind, strlen(o.kind)) : 0, end = o.kind ? first + 1 : WORLD_KINDS;
#ifndef PC_PLANTED
	if (o.without) {
		fprintf(stderr,
			"schedules: this build has no bugs: make planted, run build/planted/schedules/schedules\n");
		return 2;
	}
#endif
	setvbuf(stdout, NULL, _IOLBF, 0);
	outcome = mmap(NULL, sizeof(*outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (outcome == MAP_FAILED)
		return 2;
	if (o.replay) {
		n = name_of(o.replay);
		return replay(&n, o.without);
	}
	double began = seconds();
	bool found = search(first, end, o.seed * 1000000, o.number, began + o.seconds, o.without, &n);
	double took = seconds() - began, cpu = cpu_seconds();
	uint64_t played = outcome->played ? outcome->played : 1;
	printf("%" PRIu64 " schedules in %.1f s: %.0f a second and core, of %" PRIu64 " points and %" PRIu64
	       " switches; seed %" PRIu64 "\n",
	       outcome->played, took, (double)outcome->played / cpu, outcome->steps / played,
	       outcome->switches / played, o.seed);
	if (!found)
		return 0;
	if (!replay(&n, o.without))
		fprintf(stderr, "it did not fail again\n");
	return 1;
}
