/*
 * fiber.h - coroutines on separate stacks, and the switch between two of them.
 *
 * A switch is a dozen instructions on x86-64; swapcontext elsewhere, which reads the signal mask from the kernel each
 * time. Each switch is announced to AddressSanitizer: its fake stacks belong to a stack.
 */
#ifndef FIBER_H
#define FIBER_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
enum { FIBER_STACK = 512 << 10 };
#else
enum { FIBER_STACK = 64 << 10 };
#endif
enum { FIBER_GUARD = 64 << 10 };

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct fiber {
#if defined(__x86_64__)
	void *sp;
#else
	ucontext_t context;
#endif
	uint8_t *stack; /* NULL: the host's stack */
	size_t size;
	void *fake; /* of the sanitizer, while the fiber does not run */
};

#if defined(__x86_64__)
void fiber_swap(void **from, void **to);
__asm__(".text\n"
	".globl fiber_swap\n"
	".type fiber_swap, @function\n"
	"fiber_swap:\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	movq %rsp, (%rdi)\n"
	"	movq (%rsi), %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	".size fiber_swap, .-fiber_swap\n");
#endif

/* The fiber begins in `entry`, which never returns, at its next switch. Its stack is made once. */
static inline void fiber_reset(struct fiber *f, void (*entry)(void))
{
	if (!f->stack) {
		uint8_t *base = mmap(NULL, FIBER_GUARD + FIBER_STACK, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (base == MAP_FAILED || mprotect(base, FIBER_GUARD, PROT_NONE))
			abort();
		f->stack = base + FIBER_GUARD;
		f->size = FIBER_STACK;
	}
	f->fake = NULL;
#if defined(__SANITIZE_ADDRESS__)
	__asan_unpoison_memory_region(f->stack, f->size); /* the frames of the last user of this stack never returned */
#endif
#if defined(__x86_64__)
	void **top = (void **)(void *)(f->stack + f->size);
	*--top = NULL; /* where `entry` would return to */
	*--top = (void *)(uintptr_t)entry;
	for (int saved = 0; saved < 6; saved++)
		*--top = NULL;
	f->sp = top;
#else
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = f->stack;
	f->context.uc_stack.ss_size = f->size;
	f->context.uc_link = NULL;
	makecontext(&f->context, entry, 0);
#endif
}

#if defined(__SANITIZE_ADDRESS__)
static const void *fiber_host_stack;
static size_t fiber_host_size;
#endif

/* Finish a switch to `self` from `from`. */
static inline void fiber_arrived(struct fiber *self, const struct fiber *from)
{
#if defined(__SANITIZE_ADDRESS__)
	const void *stack;
	size_t size;
	__sanitizer_finish_switch_fiber(self->fake, &stack, &size);
	if (from && !from->stack) {
		fiber_host_stack = stack;
		fiber_host_size = size;
	}
#else
	(void)self, (void)from;
#endif
}

/* @ends: `from` will never run again. */
static inline void fiber_switch(struct fiber *from, struct fiber *to, int ends)
{
#if defined(__SANITIZE_ADDRESS__)
	__sanitizer_start_switch_fiber(ends ? NULL : &from->fake, to->stack ? to->stack : fiber_host_stack,
				       to->stack ? to->size : fiber_host_size);
#else
	(void)ends;
#endif
#if defined(__x86_64__)
	fiber_swap(&from->sp, &to->sp);
#else
	swapcontext(&from->context, &to->context);
#endif
}

#endif
