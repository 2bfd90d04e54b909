/*
 * Makes psql ask in the extended protocol: preloaded, it takes the place of libpq's PQsendQuery.
 *
 * PGHERD_PROTOCOL says how: "extended" with the unnamed statement, "prepared" with one name for each text, prepared when it
 * comes for the first time on its connection. A text that cannot be prepared is sent as psql would have sent it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct pg_conn PGconn;
typedef struct pg_result PGresult;
typedef unsigned int Oid;

extern int PQsendQueryParams(PGconn *, const char *, int, const Oid *, const char *const *, const int *, const int *, int);
extern int PQsendQueryPrepared(PGconn *, const char *, int, const char *const *, const int *, const int *, int);
extern PGresult *PQprepare(PGconn *, const char *, const char *, int, const Oid *);
extern int PQresultStatus(const PGresult *);
extern void PQclear(PGresult *);
extern int PQbackendPID(const PGconn *);

#define COMMAND_OK 1
/* Texts of one connection; those beyond go with the unnamed statement. */
#define KNOWN_MAX 4096

static uint64_t known[KNOWN_MAX];
static int known_count;
static PGconn *known_of;
static int known_pid;

static uint64_t digest(const char *text)
{
	uint64_t hash = 14695981039346656037u;

	for (; *text; text++)
		hash = (hash ^ (unsigned char) *text) * 1099511628211u;
	return hash;
}

/* 1: prepared, 0: it could not be. */
static int prepare(PGconn *conn, const char *query, char *name)
{
	uint64_t	hash = digest(query);
	PGresult   *result;
	int			done;

	if (known_of != conn || known_pid != PQbackendPID(conn))
	{
		known_of = conn;
		known_pid = PQbackendPID(conn);
		known_count = 0;
	}
	sprintf(name, "s%016llx", (unsigned long long) hash);
	for (int i = 0; i < known_count; i++)
		if (known[i] == hash)
			return 1;
	if (known_count == KNOWN_MAX)
		return 0;
	result = PQprepare(conn, name, query, 0, NULL);
	done = PQresultStatus(result) == COMMAND_OK;
	PQclear(result);
	if (done)
		known[known_count++] = hash;
	return done;
}

int PQsendQuery(PGconn *conn, const char *query)
{
	int			(*plain) (PGconn *, const char *) = dlsym(RTLD_NEXT, "PQsendQuery");
	const char *protocol = getenv("PGHERD_PROTOCOL");
	char		name[32];

	if (protocol && strcmp(protocol, "extended") == 0)
		return PQsendQueryParams(conn, query, 0, NULL, NULL, NULL, NULL, 0);
	if (protocol && strcmp(protocol, "prepared") == 0 && prepare(conn, query, name))
		return PQsendQueryPrepared(conn, name, 0, NULL, NULL, NULL, 0);
	return plain(conn, query);
}
