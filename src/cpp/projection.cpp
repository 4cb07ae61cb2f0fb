#include "projection.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "threads.h"

namespace hardy {
namespace {

constexpr int64_t kChunk = 1024;  // gradients of the camera are summed chunk by chunk, whatever the threads
constexpr float kMargin = 0.15f;  // of the image's size, beyond which the slope of the projection is held

struct Matrix3 {
  float m[3][3];
};

// Work on chunks of the Gaussians: work(chunk, begin, end).
template <class Work>
void in_chunks(int64_t count, int threads, const Work& work) {
  parallel_for((count + kChunk - 1) / kChunk, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) work(c, c * kChunk, std::min((c + 1) * kChunk, count));
  });
}

Matrix3 rotation(const float* q) {
  const float w = q[0], x = q[1], y = q[2], z = q[3];
  return {{{1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)},
           {2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)},
           {2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)}}};
}

// Everything between a Gaussian and its image that the way back needs again.
struct Path {
  float p[3];                // centre, seen from the camera
  float unit[4], norm;       // quaternion
  Matrix3 turn, shape;       // rotation; rotation times scales
  float u, v;                // pixels from the principal point to the centre, held near the image
  bool u_free, v_free;
  float j[4];                // the slope: 00, 02, 11, 12
  float t[2][3], g[2][3];    // slope times the camera's rotation; that times the shape
  float cov[3], det;         // 00, 01, 11, without blur
  float blurred[2], blurred_det;
};

bool follow(const Gaussians& in, const Camera& camera, int64_t i, Path& s) {
  const float* view = camera.view;
  const float* k = camera.intrinsics;
  const float* mean = in.means + 3 * i;
  for (int r = 0; r < 3; ++r)
    s.p[r] = view[4 * r] * mean[0] + view[4 * r + 1] * mean[1] + view[4 * r + 2] * mean[2] + view[4 * r + 3];
  const float z = s.p[2];
  if (!(z >= camera.nearest) || !(z <= camera.farthest)) return false;
  const float* q = in.quats + 4 * i;
  s.norm = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
  if (!(s.norm > 0.0f)) return false;
  for (int c = 0; c < 4; ++c) s.unit[c] = q[c] / s.norm;
  s.turn = rotation(s.unit);
  for (int r = 0; r < 3; ++r)
    for (int c = 0; c < 3; ++c) s.shape.m[r][c] = s.turn.m[r][c] * in.scales[3 * i + c];

  const float fx = k[0], cx = k[2], fy = k[4], cy = k[5];
  const float u = fx * s.p[0] / z, v = fy * s.p[1] / z;
  const float w = static_cast<float>(camera.width), h = static_cast<float>(camera.height);
  s.u = std::min(std::max(u, -kMargin * w - cx), (1 + kMargin) * w - cx);
  s.v = std::min(std::max(v, -kMargin * h - cy), (1 + kMargin) * h - cy);
  s.u_free = s.u == u;
  s.v_free = s.v == v;
  s.j[0] = fx / z;
  s.j[1] = -s.u / z;
  s.j[2] = fy / z;
  s.j[3] = -s.v / z;
  for (int c = 0; c < 3; ++c) {
    s.t[0][c] = s.j[0] * view[c] + s.j[1] * view[8 + c];
    s.t[1][c] = s.j[2] * view[4 + c] + s.j[3] * view[8 + c];
  }
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 3; ++c)
      s.g[r][c] = s.t[r][0] * s.shape.m[0][c] + s.t[r][1] * s.shape.m[1][c] + s.t[r][2] * s.shape.m[2][c];
  const int rows[3][2] = {{0, 0}, {0, 1}, {1, 1}};
  for (int e = 0; e < 3; ++e) {
    const float *a = s.g[rows[e][0]], *b = s.g[rows[e][1]];
    s.cov[e] = a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  }
  // The determinant as the squared cross product of the two rows: products of covariances would cancel for needles.
  const float n0 = s.g[0][1] * s.g[1][2] - s.g[0][2] * s.g[1][1];
  const float n1 = s.g[0][2] * s.g[1][0] - s.g[0][0] * s.g[1][2];
  const float n2 = s.g[0][0] * s.g[1][1] - s.g[0][1] * s.g[1][0];
  s.det = n0 * n0 + n1 * n1 + n2 * n2;
  s.blurred[0] = s.cov[0] + camera.blur;
  s.blurred[1] = s.cov[2] + camera.blur;
  s.blurred_det = s.det + camera.blur * (s.cov[0] + s.cov[2]) + camera.blur * camera.blur;
  return s.blurred_det > 0.0f && std::isfinite(s.blurred_det);
}

void nothing(const Projected& out, int64_t i) {
  out.means[2 * i] = out.means[2 * i + 1] = out.depths[i] = out.compensations[i] = 0.0f;
  for (int c = 0; c < 3; ++c) out.conics[3 * i + c] = 0.0f;
  out.radii[2 * i] = out.radii[2 * i + 1] = 0;
}

int32_t radius(float reach, float variance) {
  return static_cast<int32_t>(std::min(std::ceil(reach * std::sqrt(variance)), 1e9f));
}

void project_one(const Gaussians& in, const Camera& camera, bool compensated, const Projected& out, int64_t i) {
  Path s;
  if (!follow(in, camera, i, s)) return nothing(out, i);
  const float compensation = std::sqrt(s.det / s.blurred_det);
  const float opacity = in.opacities[i] * (compensated ? compensation : 1.0f);
  if (!(opacity >= 1.0f / 255.0f)) return nothing(out, i);
  const float reach = std::sqrt(2.0f * std::log(255.0f * opacity));
  // Never zero, which stands for what is not seen: a pixel's centre may lie right under a Gaussian of any size.
  const int32_t across = std::max(radius(reach, s.blurred[0]), 1), down = std::max(radius(reach, s.blurred[1]), 1);
  const float x = s.j[0] * s.p[0] + camera.intrinsics[2], y = s.j[2] * s.p[1] + camera.intrinsics[5];
  const bool outside = !(x + across > 0.0f) || !(x - across < camera.width) || !(y + down > 0.0f) ||
                       !(y - down < camera.height);
  if (outside || std::max(across, down) <= camera.smallest_radius) return nothing(out, i);
  out.means[2 * i] = x;
  out.means[2 * i + 1] = y;
  out.depths[i] = s.p[2];
  out.conics[3 * i] = s.blurred[1] / s.blurred_det;
  out.conics[3 * i + 1] = -s.cov[1] / s.blurred_det;
  out.conics[3 * i + 2] = s.blurred[0] / s.blurred_det;
  out.compensations[i] = compensation;
  out.radii[2 * i] = across;
  out.radii[2 * i + 1] = down;
}

void rotation_backward(const float* q, const Matrix3& v, float* out) {
  const float w = q[0], x = q[1], y = q[2], z = q[3];
  const auto& m = v.m;
  out[0] = 2 * (x * (m[2][1] - m[1][2]) + y * (m[0][2] - m[2][0]) + z * (m[1][0] - m[0][1]));
  out[1] = 2 * (w * (m[2][1] - m[1][2]) - 2 * x * (m[1][1] + m[2][2]) + y * (m[0][1] + m[1][0]) +
                z * (m[0][2] + m[2][0]));
  out[2] = 2 * (w * (m[0][2] - m[2][0]) + x * (m[0][1] + m[1][0]) - 2 * y * (m[0][0] + m[2][2]) +
                z * (m[1][2] + m[2][1]));
  out[3] = 2 * (w * (m[1][0] - m[0][1]) + x * (m[0][2] + m[2][0]) + y * (m[1][2] + m[2][1]) -
                2 * z * (m[0][0] + m[1][1]));
}

// `view` and `intrinsics` of `out` are added to.
void back_one(const Gaussians& in, const Camera& camera, const ProjectedGradients& from, const GaussianGradients& out,
              float* view_gradient, float* intrinsics_gradient, int64_t i) {
  Path s;
  follow(in, camera, i, s);
  const float* view = camera.view;
  const float fx = camera.intrinsics[0], fy = camera.intrinsics[4], z = s.p[2];

  // Of the inverse X: minus X V X.
  const float a = s.blurred[1] / s.blurred_det, b = -s.cov[1] / s.blurred_det, c = s.blurred[0] / s.blurred_det;
  const float va = from.conics[3 * i], vb = 0.5f * from.conics[3 * i + 1], vc = from.conics[3 * i + 2];
  const float l00 = a * va + b * vb, l01 = a * vb + b * vc, l10 = b * va + c * vb, l11 = b * vb + c * vc;
  float v00 = -(l00 * a + l01 * b), v01 = -(l00 * b + l01 * c), v11 = -(l10 * b + l11 * c);
  if (from.compensations && s.det > 0.0f) {
    const float by_square = from.compensations[i] * 0.5f / std::sqrt(s.det / s.blurred_det) / s.blurred_det;
    const float ratio = s.det / s.blurred_det;
    v00 += by_square * (s.cov[2] - ratio * s.blurred[1]);
    v11 += by_square * (s.cov[0] - ratio * s.blurred[0]);
    v01 += by_square * (ratio - 1.0f) * s.cov[1];
  }
  float vg[2][3], vt[2][3];
  Matrix3 shape{}, turn;
  for (int k = 0; k < 3; ++k) {
    vg[0][k] = 2 * (v00 * s.g[0][k] + v01 * s.g[1][k]);
    vg[1][k] = 2 * (v01 * s.g[0][k] + v11 * s.g[1][k]);
  }
  for (int r = 0; r < 2; ++r)
    for (int k = 0; k < 3; ++k)
      vt[r][k] = vg[r][0] * s.shape.m[k][0] + vg[r][1] * s.shape.m[k][1] + vg[r][2] * s.shape.m[k][2];
  for (int r = 0; r < 3; ++r)
    for (int k = 0; k < 3; ++k) shape.m[r][k] = s.t[0][r] * vg[0][k] + s.t[1][r] * vg[1][k];
  for (int k = 0; k < 3; ++k) {
    float total = 0;
    for (int r = 0; r < 3; ++r) {
      total += shape.m[r][k] * s.turn.m[r][k];
      turn.m[r][k] = shape.m[r][k] * in.scales[3 * i + k];
    }
    out.scales[3 * i + k] = total;
  }
  float quat[4];
  rotation_backward(s.unit, turn, quat);
  const float along = quat[0] * s.unit[0] + quat[1] * s.unit[1] + quat[2] * s.unit[2] + quat[3] * s.unit[3];
  for (int k = 0; k < 4; ++k) out.quats[4 * i + k] = (quat[k] - along * s.unit[k]) / s.norm;

  float vj[4] = {};
  for (int k = 0; k < 3; ++k) {
    vj[0] += vt[0][k] * view[k];
    vj[1] += vt[0][k] * view[8 + k];
    vj[2] += vt[1][k] * view[4 + k];
    vj[3] += vt[1][k] * view[8 + k];
    view_gradient[k] += s.j[0] * vt[0][k];
    view_gradient[4 + k] += s.j[2] * vt[1][k];
    view_gradient[8 + k] += s.j[1] * vt[0][k] + s.j[3] * vt[1][k];
  }
  const float held_u = -vj[1] / z, held_v = -vj[3] / z;
  const float vu = from.means[2 * i] + (s.u_free ? held_u : 0.0f), vv = from.means[2 * i + 1] + (s.v_free ? held_v : 0.0f);
  float vp[3];
  vp[0] = vu * fx / z;
  vp[1] = vv * fy / z;
  vp[2] = (-vj[0] * fx + vj[1] * s.u - vj[2] * fy + vj[3] * s.v - vu * fx * s.p[0] - vv * fy * s.p[1]) / (z * z);
  if (from.depths) vp[2] += from.depths[i];
  intrinsics_gradient[0] += (vj[0] + vu * s.p[0]) / z;
  intrinsics_gradient[4] += (vj[2] + vv * s.p[1]) / z;
  intrinsics_gradient[2] += from.means[2 * i] - (s.u_free ? 0.0f : held_u);
  intrinsics_gradient[5] += from.means[2 * i + 1] - (s.v_free ? 0.0f : held_v);
  for (int k = 0; k < 3; ++k) {
    out.means[3 * i + k] = view[k] * vp[0] + view[4 + k] * vp[1] + view[8 + k] * vp[2];
    for (int r = 0; r < 3; ++r) view_gradient[4 * r + k] += vp[r] * in.means[3 * i + k];
    view_gradient[4 * k + 3] += vp[k];
  }
}

// The 16 real spherical harmonics of degrees 0 to 3 on a unit vector, and their derivatives by its components.
constexpr float k0 = 0.28209479177387814f, k1 = 0.4886025119029199f;
constexpr float k2[3] = {1.0925484305920792f, 0.31539156525252005f, 0.5462742152960396f};
constexpr float k3[5] = {0.5900435899266435f, 2.890611442640554f, 0.4570457994644658f, 0.3731763325901154f,
                         1.445305721320277f};

void bases_of(int degree, const float* d, float* base) {
  const float x = d[0], y = d[1], z = d[2];
  base[0] = k0;
  if (degree < 1) return;
  base[1] = -k1 * y;
  base[2] = k1 * z;
  base[3] = -k1 * x;
  if (degree < 2) return;
  base[4] = k2[0] * x * y;
  base[5] = -k2[0] * y * z;
  base[6] = k2[1] * (2 * z * z - x * x - y * y);
  base[7] = -k2[0] * x * z;
  base[8] = k2[2] * (x * x - y * y);
  if (degree < 3) return;
  base[9] = -k3[0] * y * (3 * x * x - y * y);
  base[10] = k3[1] * x * y * z;
  base[11] = -k3[2] * y * (4 * z * z - x * x - y * y);
  base[12] = k3[3] * z * (2 * z * z - 3 * x * x - 3 * y * y);
  base[13] = -k3[2] * x * (4 * z * z - x * x - y * y);
  base[14] = k3[4] * z * (x * x - y * y);
  base[15] = -k3[0] * x * (x * x - 3 * y * y);
}

void slopes_of(int degree, const float* d, float (*slope)[3]) {
  const float x = d[0], y = d[1], z = d[2];
  const auto set = [&](int b, float factor, float dx, float dy, float dz) {
    slope[b][0] = factor * dx;
    slope[b][1] = factor * dy;
    slope[b][2] = factor * dz;
  };
  set(0, 0, 0, 0, 0);
  if (degree < 1) return;
  set(1, -k1, 0, 1, 0);
  set(2, k1, 0, 0, 1);
  set(3, -k1, 1, 0, 0);
  if (degree < 2) return;
  set(4, k2[0], y, x, 0);
  set(5, -k2[0], 0, z, y);
  set(6, k2[1], -2 * x, -2 * y, 4 * z);
  set(7, -k2[0], z, 0, x);
  set(8, k2[2], 2 * x, -2 * y, 0);
  if (degree < 3) return;
  set(9, -k3[0], 6 * x * y, 3 * x * x - 3 * y * y, 0);
  set(10, k3[1], y * z, x * z, x * y);
  set(11, -k3[2], -2 * x * y, 4 * z * z - x * x - 3 * y * y, 8 * y * z);
  set(12, k3[3], -6 * x * z, -6 * y * z, 6 * z * z - 3 * x * x - 3 * y * y);
  set(13, -k3[2], 4 * z * z - 3 * x * x - y * y, -2 * x * y, 8 * x * z);
  set(14, k3[4], 2 * x * z, -2 * y * z, x * x - y * y);
  set(15, -k3[0], 3 * x * x - 3 * y * y, -6 * x * y, 0);
}

// The unit vector from the eye to a mean; its former length.
float direction(const float* mean, const float* eye, float* d) {
  for (int c = 0; c < 3; ++c) d[c] = mean[c] - eye[c];
  const float length = std::max(std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]), 1e-12f);
  for (int c = 0; c < 3; ++c) d[c] /= length;
  return length;
}

}  // namespace

void project(const Gaussians& gaussians, const Camera& camera, bool compensated, const Projected& out, int threads) {
  in_chunks(gaussians.count, threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) project_one(gaussians, camera, compensated, out, i);
  });
}

void project_backward(const Gaussians& gaussians, const Camera& camera, const int32_t* radii,
                      const ProjectedGradients& in, const GaussianGradients& out, int threads) {
  const int64_t count = gaussians.count;
  std::vector<float> cameras(25 * ((count + kChunk - 1) / kChunk), 0.0f);
  in_chunks(count, threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    float* view = cameras.data() + 25 * chunk;
    for (int64_t i = begin; i < end; ++i) {
      if (radii[2 * i] > 0) {
        back_one(gaussians, camera, in, out, view, view + 16, i);
        continue;
      }
      for (int c = 0; c < 3; ++c) out.means[3 * i + c] = out.scales[3 * i + c] = 0.0f;
      for (int c = 0; c < 4; ++c) out.quats[4 * i + c] = 0.0f;
    }
  });
  std::fill(out.view, out.view + 16, 0.0f);
  std::fill(out.intrinsics, out.intrinsics + 9, 0.0f);
  for (size_t at = 0; at < cameras.size(); at += 25) {
    for (int k = 0; k < 16; ++k) out.view[k] += cameras[at + k];
    for (int k = 0; k < 9; ++k) out.intrinsics[k] += cameras[at + 16 + k];
  }
}

void harmonics(int64_t count, int bases, int degree, const float* means, const float* eye, const float* coefficients,
               const int32_t* radii, float* colors, int threads) {
  const int used = (degree + 1) * (degree + 1);
  in_chunks(count, threads, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float color[3] = {0.5f, 0.5f, 0.5f}, d[3], base[16];
      if (radii[2 * i] > 0) {
        direction(means + 3 * i, eye, d);
        bases_of(degree, d, base);
        const float* from = coefficients + i * bases * 3;
        for (int b = 0; b < used; ++b)
          for (int c = 0; c < 3; ++c) color[c] += base[b] * from[3 * b + c];
      }
      for (int c = 0; c < 3; ++c) colors[3 * i + c] = radii[2 * i] > 0 && color[c] > 0.0f ? color[c] : 0.0f;
    }
  });
}

void harmonics_backward(int64_t count, int bases, int degree, const float* means, const float* eye,
                        const float* coefficients, const int32_t* radii, const float* colors, const float* gradient,
                        float* means_gradient, float* eye_gradient, float* coefficients_gradient, int threads) {
  const int used = (degree + 1) * (degree + 1);
  std::vector<float> eyes(3 * ((count + kChunk - 1) / kChunk), 0.0f);
  in_chunks(count, threads, [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = coefficients_gradient + i * bases * 3;
      std::fill(to, to + bases * 3, 0.0f);
      float* mean = means_gradient + 3 * i;
      mean[0] = mean[1] = mean[2] = 0.0f;
      if (radii[2 * i] <= 0) continue;
      float v[3], d[3], base[16], slope[16][3], vd[3] = {};
      for (int c = 0; c < 3; ++c) v[c] = colors[3 * i + c] > 0.0f ? gradient[3 * i + c] : 0.0f;
      const float length = direction(means + 3 * i, eye, d);
      bases_of(degree, d, base);
      slopes_of(degree, d, slope);
      const float* from = coefficients + i * bases * 3;
      for (int b = 0; b < used; ++b) {
        float along = 0.0f;
        for (int c = 0; c < 3; ++c) {
          to[3 * b + c] = base[b] * v[c];
          along += from[3 * b + c] * v[c];
        }
        for (int k = 0; k < 3; ++k) vd[k] += along * slope[b][k];
      }
      const float radial = vd[0] * d[0] + vd[1] * d[1] + vd[2] * d[2];
      for (int k = 0; k < 3; ++k) {
        mean[k] = (vd[k] - radial * d[k]) / length;
        eyes[3 * chunk + k] -= mean[k];
      }
    }
  });
  eye_gradient[0] = eye_gradient[1] = eye_gradient[2] = 0.0f;
  for (size_t at = 0; at < eyes.size(); at += 3)
    for (int k = 0; k < 3; ++k) eye_gradient[k] += eyes[at + k];
}

}  // namespace hardy
