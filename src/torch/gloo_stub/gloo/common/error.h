// Empty on purpose: libtorch ships c10d's headers without Gloo's, and c10d's header only names this
// file. See context.h.
#pragma once
