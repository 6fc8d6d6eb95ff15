/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __PROGS_CG_STORAGE_SHARED_H
#define __PROGS_CG_STORAGE_SHARED_H

#define SHARED_LEVEL	0x5ead

struct shared_value {
	__u32 number;
	char rest[3996];
};

#endif
