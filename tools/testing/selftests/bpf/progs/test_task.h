/* SPDX-License-Identifier: GPL-2.0 */
/* Programs that are to run for the task of their test only */
#ifndef __TEST_TASK_H
#define __TEST_TASK_H

#include <stdbool.h>
#include <bpf/bpf_helpers.h>

int pid; /* set by user space; until then it is 0, and so is the idle task's */

static __always_inline bool test_task(void)
{
	return pid && bpf_get_current_pid_tgid() >> 32 == pid;
}

#endif
