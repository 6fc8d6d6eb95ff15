// SPDX-License-Identifier: GPL-2.0
/* Speed of socket storage: to find what is there, and to create and delete it */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include "bench.h"
#include "progs/storage_bench.h"
#include "storage_bench.skel.h"

/* test_run of a program has a cost of its own: run it so many times a call */
#define REPEAT		64

static struct {
	struct storage_bench *skel;
	struct counter hits;
	long failed;
} ctx;

static void validate(void)
{
	if (env.consumer_cnt != 1 || env.producer_cnt != 1) {
		fprintf(stderr, "benchmark has one consumer and one producer!\n");
		exit(1);
	}
}

static void setup(void)
{
	setup_libbpf();
	ctx.skel = storage_bench__open_and_load();
	if (!ctx.skel) {
		fprintf(stderr, "failed to open and load skeleton\n");
		exit(1);
	}
}

static void measure(struct bench_res *res)
{
	long failed = ctx.skel->bss->nr_failed;

	res->drops = failed - ctx.failed;
	res->hits = atomic_swap(&ctx.hits.value, 0) - res->drops;
	ctx.failed = failed;
}

static void *consumer(void *input)
{
	return NULL;
}

static void *produce(struct bpf_program *prog)
{
	char packet[64] = {};
	struct bpf_prog_test_run_attr attr = {
		.prog_fd = bpf_program__fd(prog),
		.repeat = REPEAT,
		.data_in = packet,
		.data_size_in = sizeof(packet),
	};

	while (true) {
		/* what the last call has left there */
		attr.data_size_out = 0;
		if (bpf_prog_test_run_xattr(&attr)) {
			if (errno == EINTR)
				continue;
			fprintf(stderr, "test_run: %s\n", strerror(errno));
			exit(1);
		}
		atomic_add(&ctx.hits.value, REPEAT * STORAGE_BENCH_BATCH);
	}
	return NULL;
}

static void *get_producer(void *input)
{
	return produce(ctx.skel->progs.storage_get);
}

static void *cycle_producer(void *input)
{
	return produce(ctx.skel->progs.storage_cycle);
}

const struct bench bench_storage_get = {
	.name = "storage-get",
	.validate = validate,
	.setup = setup,
	.producer_thread = get_producer,
	.consumer_thread = consumer,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = hits_drops_report_final,
};

const struct bench bench_storage_cycle = {
	.name = "storage-cycle",
	.validate = validate,
	.setup = setup,
	.producer_thread = cycle_producer,
	.consumer_thread = consumer,
	.measure = measure,
	.report_progress = hits_drops_report_progress,
	.report_final = hits_drops_report_final,
};
