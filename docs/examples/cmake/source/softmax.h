// The softmax of each row of x (rows, columns), in place.
#pragma once

void softmax(float* x, int rows, int columns);
