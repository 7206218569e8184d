// Goal: each function's requester ids are those that its DMA may carry. Method: small topologies by hand.

import { describe, expect, test } from 'vitest';
import { sbdfText } from '../../../machine/ids.ts';
import { type PciDescription, pciFunctions } from '../../../passthrough/index.ts';

function requesters(of: Omit<PciDescription, 'unit'>, ...others: readonly Omit<PciDescription, 'unit'>[]): string[] {
  const [first] = pciFunctions([of, ...others].map((one) => ({ ...one, unit: 0 })));
  return first!.requesters.map(sbdfText);
}

const toPci = { device: '03:00.0', type: 'pcie-to-pci-bridge', secondary: 4, subordinate: 6 };
const legacy = { device: '04:05.0', type: 'pci-bridge', secondary: 5, subordinate: 5 };

describe('requester ids', () => {
  test.each([
    ['an endpoint', { device: '01:00.0' }, ['0000:01:00.0']],
    ['an endpoint that is PCIe behind a bridge', { device: '04:01.0', type: 'endpoint' }, ['0000:04:01.0']],
    ['conventional PCI on the root bus', { device: '00:06.0', type: 'pci-endpoint' }, ['0000:00:06.0']],
    [
      'conventional PCI behind PCIe to PCI',
      { device: '04:01.0', type: 'pci-endpoint' },
      ['0000:04:01.0', '0000:03:00.0', '0000:04:00.0'],
    ],
    [
      'the device that is the alias itself',
      { device: '04:00.0', type: 'pci-endpoint' },
      ['0000:04:00.0', '0000:03:00.0'],
    ],
    [
      'one behind two bridges, by the one nearest to the root',
      { device: '05:01.0', type: 'pci-endpoint' },
      ['0000:05:01.0', '0000:03:00.0', '0000:04:00.0'],
    ],
    ['the same bus of another segment', { device: '0001:04:01.0', type: 'pci-endpoint' }, ['0001:04:01.0']],
    ['a root port', { device: '00:08.0', type: 'root-port', secondary: 1 }, []],
    ['a host bridge', { device: '00:00.0', type: 'host-bridge' }, []],
  ])('of %s', (_, of, expected) => {
    expect(requesters(of, toPci, legacy)).toEqual(expected);
  });

  test('behind a legacy bridge are the own one and the bridge’s', () => {
    const bridge = { device: '00:1e.0', type: 'pci-bridge', secondary: 2 };
    expect(requesters({ device: '02:03.0', type: 'pci-endpoint' }, bridge)).toEqual(['0000:02:03.0', '0000:00:1e.0']);
  });
});

test('the id that a request carries is its bridge’s', () => {
  const carried = (of: Omit<PciDescription, 'unit'>, ...others: readonly Omit<PciDescription, 'unit'>[]) =>
    sbdfText(pciFunctions([of, ...others].map((one) => ({ ...one, unit: 0 })))[0]!.requester);
  const pci = (device: string) => ({ device, type: 'pci-endpoint' });
  expect(carried({ device: '04:01.0' }, toPci)).toBe('0000:04:01.0');
  expect(['04:01.0', '04:00.0', '05:01.0'].map((device) => carried(pci(device), toPci, legacy))).toEqual([
    '0000:04:00.0',
    '0000:04:00.0',
    '0000:04:00.0',
  ]);
  expect(carried(pci('02:00.0'), { device: '00:1e.0', type: 'pci-bridge', secondary: 2 })).toBe('0000:00:1e.0');
});

test('functions that are no bridges are counted by address', () => {
  const of = pciFunctions([
    { device: '01:00.0', unit: 0 },
    { ...toPci, unit: 0 },
    { device: '00:05.0', unit: 0, type: 'pci-endpoint' },
    { device: '00:00.0', unit: 0, type: 'host-bridge' },
  ]);
  expect(of.map(({ endpointIndex, isHostBridge }) => [endpointIndex, isHostBridge])).toEqual([
    [1, false],
    [-1, false],
    [0, false],
    [-1, true],
  ]);
});
