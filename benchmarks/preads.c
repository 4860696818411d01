/* The baseline's reads: one pread per row, of the aligned 4 KiB that hold it, past the page cache. Compiled by
   read_only_batches.py, so that the baseline waits for the disk and not for Python. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { kPage = 4096, kMaxThreads = 64 };

typedef struct {
  const int* files;       /* of each table: its rows, one after the other */
  const int64_t* begin;   /* [num_tables + 1]: where each table's entries begin */
  const uint32_t* rows;   /* of each entry */
  unsigned char* records; /* [entries, row_bytes] */
  int64_t row_bytes;      /* divides 4096 */
  int num_tables;
  atomic_llong next;
  atomic_int error;
} Job;

static void* work(void* argument) {
  Job* job = argument;
  void* page = NULL;
  if (posix_memalign(&page, kPage, kPage) != 0) atomic_store(&job->error, ENOMEM);
  int table = 0;
  while (atomic_load(&job->error) == 0) {
    const int64_t entry = atomic_fetch_add(&job->next, 1);
    if (entry >= job->begin[job->num_tables]) break;
    while (entry >= job->begin[table + 1]) ++table;
    const int64_t at = job->rows[entry] * job->row_bytes;
    const ssize_t got = pread(job->files[table], page, kPage, at / kPage * kPage);
    if (got < at % kPage + job->row_bytes) { /* the last page of a file may be short */
      atomic_store(&job->error, got < 0 ? errno : EIO);
      break;
    }
    memcpy(job->records + entry * job->row_bytes, (unsigned char*)page + at % kPage, (size_t)job->row_bytes);
  }
  free(page);
  return NULL;
}

/* Returns 0 or an errno. With num_threads = 1 the caller reads, one row after the other. */
int read_rows(const int* files, int num_tables, const int64_t* begin, const uint32_t* rows, int64_t row_bytes,
              unsigned char* records, int num_threads) {
  Job job = {files, begin, rows, records, row_bytes, num_tables, 0, 0};
  pthread_t threads[kMaxThreads];
  int num_started = 0;
  while (num_started < num_threads - 1 && num_started < kMaxThreads) {
    if (pthread_create(&threads[num_started], NULL, work, &job) != 0) break;
    ++num_started;
  }
  work(&job);
  for (int i = 0; i < num_started; ++i) pthread_join(threads[i], NULL);
  return atomic_load(&job.error);
}
