// Small dense linear systems.
#pragma once

#include <algorithm>
#include <cmath>

namespace fastmcd {

// Solves the N equations a[i][0..N-1] . x = a[i][N] by elimination with column pivoting, spoiling a.
// False if they are singular (or hold NaN).
template <int N>
bool solve(double a[N][N + 1], double x[N]) {
    for (int k = 0; k < N; ++k) {
        int pivot = k;
        for (int i = k + 1; i < N; ++i)
            if (std::abs(a[i][k]) > std::abs(a[pivot][k])) pivot = i;
        if (!(std::abs(a[pivot][k]) > 1e-10)) return false;
        if (pivot != k) std::swap_ranges(a[k], a[k] + N + 1, a[pivot]);
        for (int i = k + 1; i < N; ++i) {
            const double factor = a[i][k] / a[k][k];
            for (int j = k; j <= N; ++j) a[i][j] -= factor * a[k][j];
        }
    }
    for (int k = N - 1; k >= 0; --k) {
        x[k] = a[k][N];
        for (int j = k + 1; j < N; ++j) x[k] -= a[k][j] * x[j];
        x[k] /= a[k][k];
    }
    return true;
}

}  // namespace fastmcd
