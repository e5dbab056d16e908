/*
 * scratch.c - memory of one request: neighbours in units, copies of unstable bytes, the surplus of reads.
 *
 *   | mapped, size | memory ...     malloc, or, from a mebibyte on, a separate mapping
 *
 * malloc keeps blocks that a thread has freed for that thread: two such blocks each, with as many threads as there may be
 * requests. Large memory goes back to the system when its request ends, so memory is the capacity and the bytes in flight [2.23].
 *
 * Locks: none. Any thread may free what another has made.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "memory/memory.h"

enum { PC_SCRATCH_MAPPED = 1 << 20 };

/* In front of the memory, which is aligned as malloc's is. */
struct head {
	_Alignas(16) size_t size; /* with the head */
	bool mapped;
};

/* Return: at least @size bytes, NULL without memory. */
void *pc_scratch_new(size_t size)
{
	bool mapped = size >= PC_SCRATCH_MAPPED;
	size += sizeof(struct head);
	struct head *h =
		mapped ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : malloc(size);
	if (!h || h == MAP_FAILED)
		return NULL;
	*h = (struct head){.size = size, .mapped = mapped};
	return h + 1;
}

void pc_scratch_free(void *memory)
{
	struct head *h = memory ? (struct head *)memory - 1 : NULL;
	if (h && h->mapped)
		munmap(h, h->size);
	else
		free(h);
}
