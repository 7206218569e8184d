export async function runCompare(): Promise<number> {
  return 0;
}
