# How code is compiled for each CPU level; the detector and the packed networks share it. cpu.hpp says which levels a processor can run.
set(LEVEL_scalar -DFASTMCD_SCALAR)  # one number at a time: what the others are judged by
set(LEVEL_baseline)
set(LEVEL_neon)  # the baseline of 64-bit ARM
set(LEVEL_popcnt -DFASTMCD_SCALAR -mpopcnt)
set(LEVEL_avx2 -mavx2 -mfma -mpopcnt)
set(LEVEL_avx512 ${LEVEL_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
    -Wno-uninitialized -Wno-maybe-uninitialized)  # GCC 12 warns about its own header (bug 105593); the other levels keep the warnings
set(LEVEL_avx512vpopcnt ${LEVEL_avx512} -mavx512vpopcntdq)
# No contraction: what is fused is written as fused, so that every level gives the same bits. -O3: the loops are written to be vectorized.
set(LEVEL_OPTIONS -ffp-contract=off -Wall -Wextra -Wpedantic $<$<CONFIG:Release>:-O3>)

# Compiles sources (those that follow) once more into `library`, for `level`, with FASTMCD_LEVEL defined as the level's name.
function(add_level library level)
  set(target ${library}_${level})
  add_library(${target} OBJECT ${ARGN})
  target_compile_features(${target} PRIVATE cxx_std_20)
  target_compile_options(${target} PRIVATE ${LEVEL_OPTIONS} -Wno-psabi ${LEVEL_${level}})
  target_compile_definitions(${target} PRIVATE FASTMCD_LEVEL=${level})
  target_include_directories(${target} PRIVATE $<TARGET_PROPERTY:${library},INCLUDE_DIRECTORIES>)
  set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_EXTENSIONS OFF)
  target_sources(${library} PRIVATE $<TARGET_OBJECTS:${target}>)
endfunction()
