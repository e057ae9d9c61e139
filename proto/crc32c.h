// crc32c.h: the Castagnoli checksum of frames whose link does not protect them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace guildhall {

// Uses the processor's instruction where it has one; same value everywhere. Extend with the previous result.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t previous = 0);

// The same without the instruction, for machines without it and for tests.
uint32_t crc32c_portable(std::span<const std::byte> bytes, uint32_t previous = 0);

}  // namespace guildhall
