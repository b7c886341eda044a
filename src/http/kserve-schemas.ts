/** Replies of the Open Inference Protocol, for the documentation; `kserve-body.ts` has its request. */
import { Type } from '@fastify/type-provider-typebox';

const Tensor = Type.Object({
  name: Type.String(),
  datatype: Type.String(),
  shape: Type.Array(Type.Integer(), { description: '-1: any length.' }),
});

export const ServerMetadata = Type.Object({
  name: Type.String(),
  version: Type.String(),
  extensions: Type.Array(Type.String()),
});

export const ModelMetadata = Type.Object({
  name: Type.String(),
  versions: Type.Array(Type.String()),
  platform: Type.String(),
  inputs: Type.Array(Tensor),
  outputs: Type.Array(Tensor),
});

export const ServerReady = Type.Object({ ready: Type.Boolean() });
export const ModelReady = Type.Object({ name: Type.String(), ready: Type.Boolean() });

/** Written by Triton's rules, whose fields are documented there. */
export const ModelConfig = Type.Object({ name: Type.String() }, { additionalProperties: true });
export const ModelStats = Type.Object({
  model_stats: Type.Array(Type.Object({ name: Type.String() }, { additionalProperties: true })),
});

export const VersionParams = Type.Object({
  id: Type.String({ description: 'Name of the model.' }),
  version: Type.String({ description: 'Always 1: packages have no versions of their own.' }),
});

export const InferReply = Type.Object({
  id: Type.Optional(Type.String()),
  model_name: Type.String(),
  model_version: Type.String(),
  parameters: Type.Record(Type.String(), Type.Number(), { description: 'What the request cost.' }),
  outputs: Type.Array(
    Type.Object({
      name: Type.String(),
      datatype: Type.String(),
      shape: Type.Array(Type.Integer()),
      data: Type.Optional(Type.Array(Type.Unknown())),
      parameters: Type.Optional(Type.Object({ binary_data_size: Type.Integer() })),
    }),
  ),
});

export const RepositoryIndex = Type.Array(
  Type.Object({
    name: Type.String(),
    version: Type.String(),
    state: Type.String({ enum: ['READY', 'UNAVAILABLE'] }),
    reason: Type.String({ description: 'Why it is not served.' }),
  }),
);

export const Done = Type.Object({}, { description: 'It is done.' });
