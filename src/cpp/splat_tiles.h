// The loops over one tile, the same for every instruction set; see lanes.h. `Channels` is 0 where their number is
// known at run time only.

constexpr float kLeast = 1.0f / 255.0f;  // alpha below this is nothing
constexpr float kMost = 0.999f;          // alpha is cut here
constexpr float kOpaque = 1e-4f;         // transmittance at which a pixel is finished, before what would take it there

struct Pixels {
  alignas(64) float transmittance[kTile][kTile];  // zero where the pixel is finished
  bool alive[kTile];
  int rows_alive;
};

HARDY_INLINE int pixels_in(int tile, int end) { return end - tile * kTile < kTile ? end - tile * kTile : kTile; }

HARDY_INLINE void start(Pixels& pixels, int across, int down) {
  pixels.rows_alive = down;
  for (int y = 0; y < kTile; ++y) {
    pixels.alive[y] = y < down;
    for (int x = 0; x < kTile; ++x) pixels.transmittance[y][x] = y < down && x < across ? 1.0f : 0.0f;
  }
}

HARDY_INLINE void retire_if_finished(Pixels& pixels, int y) {
  for (int x = 0; x < kTile; ++x)
    if (pixels.transmittance[y][x] > 0.0f) return;
  pixels.alive[y] = false;
  --pixels.rows_alive;
}

// One register of pixels under one Gaussian.
struct Touch {
  Floats dx, alpha, raw, before, after;  // raw: alpha before it was cut; transmittance before and after
  Ints counts, finishes;  // pixels that it contributes to; that it would make opaque
};

HARDY_INLINE Floats distance(const Splat& g, Floats dx, float dy) {
  return (dx * dx * g.a + dy * dy * g.c) * 0.5f + dx * (g.b * dy);
}

HARDY_INLINE Touch touch(const Splat& g, Floats dx, Floats s, Floats before) {
  Touch t;
  t.dx = dx;
  t.raw = exp_minus(s) * g.opacity;
  t.alpha = choose(below(t.raw, all(kMost)), t.raw, all(kMost));
  t.before = before;
  const Floats next = before * (1.0f - t.alpha);
  const Ints seen = at_most(all(kLeast), t.alpha) & at_most(all(0.0f), s);
  const Ints ends = seen & at_most(next, all(kOpaque));
  t.counts = seen & ~ends;
  t.finishes = ends & below(all(0.0f), before);
  t.after = choose(t.counts, next, choose(ends, all(0.0f), before));
  return t;
}

HARDY_INLINE int reached(Floats s, float reach) { return set_bits(at_most(s, all(reach))); }

HARDY_INLINE Floats column_offsets(int i) {
  alignas(64) constexpr float kColumns[kTile] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kColumns + i * HARDY_LANES);
}

template <int Channels>
int64_t forward_tile(const Tiles& tiles, int64_t tile, const Rendered& out) {
  const int channels = Channels ? Channels : tiles.channels;
  constexpr int kRoom = Channels ? Channels : kMostChannels;
  const int tile_x = static_cast<int>(tile % tiles.across), tile_y = static_cast<int>(tile / tiles.across);
  const int columns = pixels_in(tile_x, tiles.width), rows = pixels_in(tile_y, tiles.height);
  Pixels pixels;
  start(pixels, columns, rows);
  alignas(64) float color[kRoom][kTile][kTile];
  alignas(64) float left_over[kTile][kTile];
  for (int k = 0; k < channels; ++k)
    for (int y = 0; y < kTile; ++y)
      for (int x = 0; x < kTile; ++x) color[k][y][x] = 0.0f;
  for (int y = 0; y < kTile; ++y)
    for (int x = 0; x < kTile; ++x) left_over[y][x] = 1.0f;

  int64_t entry = tiles.begin[tile];
  const int64_t first = entry, end = tiles.begin[tile + 1];
  for (; entry < end && pixels.rows_alive > 0; ++entry) {
    const Splat& g = tiles.splats[tiles.entries[entry]];
    const float* ink = tiles.colors + static_cast<int64_t>(tiles.entries[entry]) * channels;
    const int top = g.top - tile_y * kTile, bottom = g.bottom - tile_y * kTile;
    Row weight = row_of(0.0f);
    int count = 0;
    const float x0 = g.x - (tile_x * kTile + 0.5f);
    for (int y = top > 0 ? top : 0; y < (bottom < rows ? bottom : rows); ++y) {
      if (!pixels.alive[y]) continue;
      const float dy = g.y - (tile_y * kTile + y + 0.5f);
      int finished = 0;
      for (int i = 0; i < kRegisters; ++i) {
        const Floats dx = x0 - column_offsets(i);
        const Floats s = distance(g, dx, dy);
        if (!reached(s, g.reach)) continue;
        float* transmittance = pixels.transmittance[y] + i * HARDY_LANES;
        const Touch t = touch(g, dx, s, load(transmittance));
        store(transmittance, t.after);
        finished += set_bits(t.finishes);
        const int here = set_bits(t.counts);
        if (!here) continue;
        count += here;
        const Floats share = choose(t.counts, t.alpha * t.before, all(0.0f));
        weight.part[i] += share;
        float* rest = left_over[y] + i * HARDY_LANES;
        store(rest, choose(t.counts, t.after, load(rest)));
        for (int k = 0; k < channels; ++k) {
          float* to = color[k][y] + i * HARDY_LANES;
          store(to, load(to) + share * ink[k]);
        }
      }
      if (finished) retire_if_finished(pixels, y);
    }
    const int64_t slot = g.first + static_cast<int64_t>(tile_y - g.upper) * (g.right - g.left) + (tile_x - g.left);
    out.weights[slot] = count ? sum(weight) : 0.0f;
    out.counts[slot] = count;
  }
  for (int64_t rest = entry; rest < end; ++rest) {
    const Splat& g = tiles.splats[tiles.entries[rest]];
    const int64_t slot = g.first + static_cast<int64_t>(tile_y - g.upper) * (g.right - g.left) + (tile_x - g.left);
    out.weights[slot] = 0.0f;
    out.counts[slot] = 0;
  }

  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) {
      const int64_t pixel = static_cast<int64_t>(tile_y * kTile + y) * tiles.width + tile_x * kTile + x;
      out.alphas[pixel] = 1.0f - left_over[y][x];
      for (int k = 0; k < channels; ++k) {
        const float behind = out.background ? out.background[k] * left_over[y][x] : 0.0f;
        out.image[pixel * channels + k] = color[k][y][x] + behind;
      }
    }
  }
  return entry - first;
}

// Front to back once more, so that the transmittances are those of the forward pass; what lies behind a Gaussian is the
// whole minus what was passed.
template <int Channels>
void backward_tile(const Tiles& tiles, int64_t tile, const Gradients& in) {
  const int channels = Channels ? Channels : tiles.channels;
  constexpr int kRoom = Channels ? Channels : kMostChannels;
  const int tile_x = static_cast<int>(tile % tiles.across), tile_y = static_cast<int>(tile / tiles.across);
  const int columns = pixels_in(tile_x, tiles.width), rows = pixels_in(tile_y, tiles.height);
  const int width = kGeometry + channels;
  Pixels pixels;
  start(pixels, columns, rows);
  alignas(64) float wanted[kRoom][kTile][kTile];
  alignas(64) float behind[kTile][kTile];  // sum over channels of gradient times color, of all that is not passed yet
  for (int y = 0; y < kTile; ++y) {
    for (int x = 0; x < kTile; ++x) {
      if (y >= rows || x >= columns) {
        for (int k = 0; k < channels; ++k) wanted[k][y][x] = 0.0f;
        behind[y][x] = 0.0f;
        continue;
      }
      const int64_t pixel = static_cast<int64_t>(tile_y * kTile + y) * tiles.width + tile_x * kTile + x;
      float total = in.alphas_gradient[pixel] * (in.alphas[pixel] - 1.0f);
      for (int k = 0; k < channels; ++k) {
        wanted[k][y][x] = in.image_gradient[pixel * channels + k];
        total += wanted[k][y][x] * in.image[pixel * channels + k];
      }
      behind[y][x] = total;
    }
  }

  int64_t entry = tiles.begin[tile];
  const int64_t end = tiles.begin[tile + 1];
  for (; entry < end && pixels.rows_alive > 0; ++entry) {
    const Splat& g = tiles.splats[tiles.entries[entry]];
    const float* ink = tiles.colors + static_cast<int64_t>(tiles.entries[entry]) * channels;
    const int top = g.top - tile_y * kTile, bottom = g.bottom - tile_y * kTile;
    // Sums of the gradient of the distance times 1, dx, dx^2, dy, dy^2, dx dy.
    Row one = row_of(0.0f), x1 = one, x2 = one, y1 = one, y2 = one, xy = one, abs_x = one, abs_y = one;
    Row inks[kRoom];
    for (int k = 0; k < channels; ++k) inks[k] = row_of(0.0f);
    bool any = false;
    const float x0 = g.x - (tile_x * kTile + 0.5f);
    for (int y = top > 0 ? top : 0; y < (bottom < rows ? bottom : rows); ++y) {
      if (!pixels.alive[y]) continue;
      const float dy = g.y - (tile_y * kTile + y + 0.5f);
      int finished = 0;
      for (int i = 0; i < kRegisters; ++i) {
        const int at = i * HARDY_LANES;
        const Floats dx = x0 - column_offsets(i);
        const Floats s = distance(g, dx, dy);
        if (!reached(s, g.reach)) continue;
        float* transmittance = pixels.transmittance[y] + at;
        const Touch t = touch(g, dx, s, load(transmittance));
        store(transmittance, t.after);
        finished += set_bits(t.finishes);
        if (!set_bits(t.counts)) continue;
        any = true;
        const Floats share = choose(t.counts, t.alpha * t.before, all(0.0f));
        Floats value = all(0.0f);
        for (int k = 0; k < channels; ++k) {
          const Floats want = load(wanted[k][y] + at);
          value += want * ink[k];
          inks[k].part[i] += share * want;
        }
        const Floats rest = load(behind[y] + at) - share * value;
        store(behind[y] + at, rest);
        const Floats by_alpha = value * t.before - rest / (1.0f - t.alpha);
        const Ints moves = t.counts & at_most(t.raw, all(kMost));
        const Floats v = choose(moves, -t.raw * by_alpha, all(0.0f));
        const Floats vx = v * dx, vy = v * dy;
        one.part[i] += v;
        x1.part[i] += vx;
        x2.part[i] += vx * dx;
        y1.part[i] += vy;
        y2.part[i] += vy * dy;
        xy.part[i] += vx * dy;
        const Floats gx = vx * g.a + vy * g.b, gy = vx * g.b + vy * g.c;
        abs_x.part[i] += from_bits(bits(gx) & 0x7fffffff);
        abs_y.part[i] += from_bits(bits(gy) & 0x7fffffff);
      }
      if (finished) retire_if_finished(pixels, y);
    }
    const int64_t slot = g.first + static_cast<int64_t>(tile_y - g.upper) * (g.right - g.left) + (tile_x - g.left);
    float* to = in.entries + slot * width;
    if (!any) {
      for (int k = 0; k < width; ++k) to[k] = 0.0f;
      continue;
    }
    const float sum_x = sum(x1), sum_y = sum(y1);
    to[0] = sum_x * g.a + sum_y * g.b;
    to[1] = sum_x * g.b + sum_y * g.c;
    to[2] = 0.5f * sum(x2);
    to[3] = sum(xy);
    to[4] = 0.5f * sum(y2);
    to[5] = -sum(one) / g.opacity;
    to[6] = sum(abs_x);
    to[7] = sum(abs_y);
    for (int k = 0; k < channels; ++k) to[kGeometry + k] = sum(inks[k]);
  }
  for (; entry < end; ++entry) {
    const Splat& g = tiles.splats[tiles.entries[entry]];
    const int64_t slot = g.first + static_cast<int64_t>(tile_y - g.upper) * (g.right - g.left) + (tile_x - g.left);
    for (int k = 0; k < width; ++k) in.entries[slot * width + k] = 0.0f;
  }
}

int64_t forward(const Tiles& tiles, int64_t tile, const Rendered& out) {
  if (tiles.channels == 3) return forward_tile<3>(tiles, tile, out);
  if (tiles.channels == 4) return forward_tile<4>(tiles, tile, out);
  return forward_tile<0>(tiles, tile, out);
}

void backward(const Tiles& tiles, int64_t tile, const Gradients& in) {
  if (tiles.channels == 3) return backward_tile<3>(tiles, tile, in);
  if (tiles.channels == 4) return backward_tile<4>(tiles, tile, in);
  return backward_tile<0>(tiles, tile, in);
}
