// A service for the recipes thrift_pool.py and thriftpy2_pool.py.

exception DivisionByZero {
  1: string message
}

service Calculator {
  i32 divide(1: i32 dividend, 2: i32 divisor) throws (1: DivisionByZero zero),

  // Returns the text, after some seconds.
  string echo(1: string text, 2: double seconds),

  // Keeps a text that the caller doesn't wait for; noted() returns how many equal ones there are.
  oneway void note(1: string text),
  i32 noted(1: string text),
}
