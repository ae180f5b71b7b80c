/* tok_trie.h: builds the tries that section [TOK] of seqmodel.h walks (sqm__trie_cell). Part of tok_import.h.
   The children of a node lie at base + byte; nodes are placed from the root on, each at the first free place
   where all its children fit. */
#ifndef TOK_TRIE_H_INCLUDED
#define TOK_TRIE_H_INCLUDED

typedef struct tok_key { const uint8_t *text; uint32_t bytes, value, order; } tok_key;

enum { TOK_TRIE_FREE = 256, TOK_TRIE_MOST = (1 << 23) - 512, TOK_TRIE_TRIES = 32 };

typedef struct tok_trie {
    conv_env        *env;
    sqm__trie_cell  *cells;
    uint8_t         *base_used;       /* [room] */
    uint32_t        *next;            /* [room] towards the next free cell; a free cell's own number */
    uint32_t         n, room;         /* cells up to the last one in use; cells there are */
    uint32_t         first[2];        /* free cell from which the search begins: one child, several */
} tok_trie;

typedef struct tok_trie_node { uint32_t low, high, depth, cell; } tok_trie_node;

static int tok__compare_keys(const void *a, const void *b)
{
    const tok_key *x = (const tok_key *)a, *y = (const tok_key *)b;
    const uint32_t n = x->bytes < y->bytes ? x->bytes : y->bytes;
    const int k = memcmp(x->text, y->text, n);
    if (k) return k;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

/* Room for cells below n + 512, all new ones free. */
static int tok__trie_grow(tok_trie *t, uint32_t n)
{
    const uint32_t room = t->room < 4096 ? 8192 : 2 * t->room;
    sqm__trie_cell *cells;
    uint8_t *used;
    uint32_t *next;
    if (n + 512 <= t->room) return 1;
    if (n > TOK_TRIE_MOST)
        return conv_fail(t->env, "tokenizer: the trie has more than %d cells", TOK_TRIE_MOST);
    cells = (sqm__trie_cell *)conv_alloc(t->env, room, sizeof *cells);
    used = (uint8_t *)conv_alloc(t->env, room, 1);
    next = (uint32_t *)conv_alloc(t->env, room, sizeof *next);
    if (!cells || !used || !next) return 0;
    if (t->room) memcpy(cells, t->cells, t->room * sizeof *cells);
    if (t->room) memcpy(used, t->base_used, t->room);
    if (t->room) memcpy(next, t->next, t->room * sizeof *next);
    for (uint32_t i = t->room; i < room; i++) {
        cells[i].link = TOK_TRIE_FREE;
        cells[i].value = TOK_NONE;
        next[i] = i;
    }
    t->cells = cells;
    t->next = next;
    t->base_used = used;
    t->room = room;
    return tok__trie_grow(t, n);
}

static int tok__trie_free(const tok_trie *t, uint32_t cell)
{
    return cell > 0 && (t->cells[cell].link & 511) == TOK_TRIE_FREE;
}

/* The first free cell from `cell` on, below the room there is; paths on the way get shorter. */
static uint32_t tok__trie_next_free(tok_trie *t, uint32_t cell)
{
    uint32_t free_cell = cell;
    while (free_cell < t->room && t->next[free_cell] != free_cell) free_cell = t->next[free_cell];
    while (cell < free_cell && cell < t->room) {
        const uint32_t after = t->next[cell];
        t->next[cell] = free_cell;
        cell = after;
    }
    return free_cell;
}

/* A base for children with these bytes. */
static uint32_t tok__trie_place(tok_trie *t, const uint8_t *labels, uint32_t n)
{
    uint32_t *from = &t->first[n > 1], cell = *from;
    for (uint32_t tries = 0; ; cell++) {
        uint32_t base, k;
        cell = tok__trie_next_free(t, cell);
        if (!tok__trie_grow(t, cell + 256)) return 1;
        if (tries++ == TOK_TRIE_TRIES) *from = cell;   /* crowded: begin later next time */
        if (cell <= labels[0]) continue;
        base = cell - labels[0];
        if (t->base_used[base]) continue;
        for (k = 1; k < n && tok__trie_free(t, base + labels[k]); k++) { }
        if (k < n) continue;
        t->base_used[base] = 1;
        return base;
    }
}

/* Places the children of the node whose keys are [low, high), which agree in `depth` bytes; adds them to
   nodes[*n_nodes ...]. */
static void tok__trie_children(tok_trie *t, const tok_key *keys, tok_trie_node node, tok_trie_node *nodes,
                               uint32_t *n_nodes)
{
    uint8_t labels[256];
    uint32_t starts[257], n = 0, base;
    while (node.low < node.high && keys[node.low].bytes == node.depth) {
        if (t->cells[node.cell].value == TOK_NONE) t->cells[node.cell].value = keys[node.low].value;
        node.low++;                                    /* the first of equal keys counts */
    }
    for (uint32_t i = node.low; i < node.high; i++) {
        const uint8_t c = keys[i].text[node.depth];
        if (n && labels[n - 1] == c) continue;
        labels[n] = c;
        starts[n++] = i;
    }
    if (n == 0) return;
    starts[n] = node.high;
    base = tok__trie_place(t, labels, n);
    if (t->env->failed) return;
    t->cells[node.cell].link |= base << 9;
    for (uint32_t i = 0; i < n; i++) {
        tok_trie_node *child = &nodes[(*n_nodes)++];
        child->low = starts[i];
        child->high = starts[i + 1];
        child->depth = node.depth + 1;
        child->cell = base + labels[i];
        t->cells[child->cell].link = labels[i];
        t->next[child->cell] = child->cell + 1;
        if (base + 256 > t->n) t->n = base + 256;
    }
}

/* Sorts the keys and builds their trie; empty keys are left out. Returns 0 with an error in env. */
static int tok_trie_build(conv_env *env, tok_key *keys, uint32_t n, tok_trie *t)
{
    tok_trie_node *nodes;
    uint64_t total = 1;
    uint32_t n_nodes = 1;
    memset(t, 0, sizeof *t);
    t->env = env;
    t->n = 512;
    t->first[0] = t->first[1] = 1;
    for (uint32_t i = 0; i < n; i++) {
        keys[i].order = i;
        total += keys[i].bytes;
    }
    if (total > (uint64_t)1 << 30) return conv_fail(env, "tokenizer: the texts of the tokens are too long");
    if (n) qsort(keys, n, sizeof *keys, tok__compare_keys);
    nodes = (tok_trie_node *)conv_alloc(env, total, sizeof *nodes);
    if (!nodes || !tok__trie_grow(t, t->n)) return 0;
    nodes[0].low = nodes[0].depth = nodes[0].cell = 0;
    nodes[0].high = n;
    while (nodes[0].low < n && keys[nodes[0].low].bytes == 0) nodes[0].low++;
    for (uint32_t i = 0; i < n_nodes && !env->failed; i++)
        tok__trie_children(t, keys, nodes[i], nodes, &n_nodes);
    return !env->failed;
}

/* The cell that a text leads to; TOK_NONE: none. */
static uint32_t tok_trie_find(const tok_trie *t, tok_text a)
{
    uint32_t cell = 0;
    for (uint32_t i = 0; i < a.bytes && cell != TOK_NONE; i++)
        cell = sqm__trie_next(t->cells, cell, (unsigned char)a.text[i]);
    return cell;
}

/* ---- the charsmap of SentencePiece --------------------------------------------------------------------- */
/* u32 bytes of a double array, the array (darts-clone's units), then texts that end with 0. */
typedef struct tok_darts {
    conv_env      *env;
    const uint8_t *units, *texts;
    uint32_t       n_units, n_texts;
    tok_key       *keys;
    uint64_t       n_keys, room;
    uint32_t       visited;
} tok_darts;

enum { TOK_DARTS_DEPTH = 64 };

static uint32_t tok__darts_offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }

static int tok__darts_key(tok_darts *d, const uint8_t *text, uint32_t bytes, uint32_t leaf)
{
    const uint32_t value = leaf < d->n_units ? conv_u32(d->units + 4 * (uint64_t)leaf) & 0x7fffffffu
                                             : TOK_NONE;
    if (value >= d->n_texts) return conv_fail(d->env, "tokenizer: the precompiled charsmap is damaged");
    d->keys = (tok_key *)conv_grow(d->env, d->keys, d->n_keys, &d->room, sizeof *d->keys);
    if (!d->keys) return 0;
    d->keys[d->n_keys].text = (const uint8_t *)conv_copy_text(d->env, text, bytes);
    d->keys[d->n_keys].bytes = bytes;
    d->keys[d->n_keys++].value = value;
    return !d->env->failed;
}

/* Collects all keys, walking depth first: node[k] is where k bytes lead. */
static int tok_darts_keys(tok_darts *d)
{
    uint8_t text[TOK_DARTS_DEPTH];
    uint32_t node[TOK_DARTS_DEPTH + 1], depth = 0, c = 0;
    node[0] = tok__darts_offset(conv_u32(d->units));
    for (;;) {
        uint32_t at, unit;
        if (++c > 255) {
            if (depth == 0) return 1;
            c = text[--depth];
            continue;
        }
        at = node[depth] ^ c;
        if (at >= d->n_units) continue;
        unit = conv_u32(d->units + 4 * (uint64_t)at);
        if ((unit & (1u << 31 | 255u)) != c) continue;
        if (depth == TOK_DARTS_DEPTH || d->visited++ > 1u << 22)
            return conv_fail(d->env, "tokenizer: the precompiled charsmap is no trie");
        text[depth++] = (uint8_t)c;
        node[depth] = at ^ tok__darts_offset(unit);
        if ((unit >> 8 & 1) && !tok__darts_key(d, text, depth, node[depth])) return 0;
        c = 0;
    }
}

#endif /* TOK_TRIE_H_INCLUDED */
