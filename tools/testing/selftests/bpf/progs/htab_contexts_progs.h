/* SPDX-License-Identifier: GPL-2.0 */
/* Included for each type of map, with
 *   NAME(name)		how a program is called
 *   STEP(irqoff)	what it does
 *   STEP_ONCE()	the same where it may sleep
 */

SEC("kprobe/sys_nanosleep")
int NAME(kprobe)(void *ctx)
{
	if (test_task())
		STEP(false);
	return 0;
}

/* a list of what is to return is locked here, with interrupts off */
SEC("kretprobe/sys_nanosleep")
int NAME(kretprobe)(void *ctx)
{
	if (test_task())
		STEP(true);
	return 0;
}

SEC("tp/syscalls/sys_enter_nanosleep")
int NAME(tracepoint)(void *ctx)
{
	if (test_task())
		STEP(false);
	return 0;
}

SEC("raw_tp/sys_enter")
int NAME(raw_tp)(void *ctx)
{
	if (test_task())
		STEP(false);
	return 0;
}

/* __schedule() calls this one with interrupts off and the runqueue locked */
SEC("raw_tp/sched_switch")
int NAME(raw_tp_irqoff)(void *ctx)
{
	if (test_task())
		STEP(true);
	return 0;
}

SEC("raw_tp/nmi_handler")
int NAME(nmi)(void *ctx)
{
	if (pid)
		STEP(true);
	return 0;
}

SEC("fentry/__x64_sys_nanosleep")
int NAME(fentry)(void *ctx)
{
	if (test_task())
		STEP(false);
	return 0;
}

SEC("fexit/__x64_sys_nanosleep")
int NAME(fexit)(void *ctx)
{
	if (test_task())
		STEP(false);
	return 0;
}

SEC("perf_event")
int NAME(perf_event)(void *ctx)
{
	if (pid)
		STEP(true);
	return 0;
}

SEC("xdp")
int NAME(xdp)(void *ctx)
{
	if (pid)
		STEP(false);
	return XDP_PASS;
}

SEC("classifier")
int NAME(tc)(void *ctx)
{
	if (pid)
		STEP(false);
	return 0;
}

SEC("socket")
int NAME(socket_filter)(void *ctx)
{
	if (pid)
		STEP(false);
	return -1;
}

SEC("cgroup_skb/egress")
int NAME(cgroup_skb)(void *ctx)
{
	if (pid)
		STEP(false);
	return 1;
}

SEC("fentry.s/__x64_sys_nanosleep")
int NAME(fentry_s)(void *ctx)
{
	if (test_task())
		STEP_ONCE();
	return 0;
}

SEC("lsm.s/bprm_committed_creds")
int NAME(lsm_s)(void *ctx)
{
	int i;

	for (i = 0; i < STEPS_PER_EXEC && test_task(); i++)
		STEP_ONCE();
	return 0;
}
